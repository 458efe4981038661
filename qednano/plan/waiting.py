"""Why a container does not run, by the reason that a kubelet gives for its waiting."""

IMAGE_MISSING = {
    "ErrImagePull": "can't pull its image",
    "ImagePullBackOff": "can't pull its image",
    "ErrImageNeverPull": "can't find its image on the node",
    "InvalidImageName": "has an invalid image name",
}
START_REFUSED = {
    "CreateContainerConfigError": "can't be configured",
    "CreateContainerError": "can't be created",
    "RunContainerError": "can't be started",
}
