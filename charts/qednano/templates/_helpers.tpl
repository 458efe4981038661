{{- define "qednano.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "qednano.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "qednano.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "qednano.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "qednano.selector" -}}
app.kubernetes.io/name: {{ include "qednano.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "qednano.labels" -}}
{{ include "qednano.selector" . }}
app.kubernetes.io/part-of: qednano
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "qednano.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "qednano.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* The image of one role: include "qednano.image" (list $ "trainer") */}}
{{- define "qednano.image" -}}
{{- $root := index . 0 -}}
{{- $name := index $root.Values.images (index . 1) -}}
{{- if or (contains ":" (base $name)) (contains "@" $name) -}}
{{- printf "%s%s" $root.Values.images.registry $name -}}
{{- else -}}
{{- printf "%s%s:%s" $root.Values.images.registry $name (default $root.Chart.AppVersion $root.Values.images.tag) -}}
{{- end -}}
{{- end }}

{{/* What the operator may do in a namespace it serves; tests/operator/test_access.py holds it equal to what it does. */}}
{{- define "qednano.rules" -}}
- apiGroups: [qednano.dev]
  resources: [proofdatasets, sftruns, rlruns, evalruns]
  # delete: spec.ttlSecondsAfterFinished; patch: the finalizer of spec.artifacts.retention
  verbs: [list, watch, patch, delete]
# Evaluations of checkpoints, for runs that ask for them; get says whose an object is that has their name.
- apiGroups: [qednano.dev]
  resources: [evalruns]
  verbs: [get, create]
- apiGroups: [qednano.dev]
  resources: [proofdatasets/status, sftruns/status, rlruns/status, evalruns/status]
  verbs: [patch]
# Clusters with OwnerReferencesPermissionEnforcement ask for this of whoever makes owned objects.
- apiGroups: [qednano.dev]
  resources: [proofdatasets/finalizers, sftruns/finalizers, rlruns/finalizers, evalruns/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch, create, delete]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
# What is left of quotas is compared with what a run needs before it starts.
- apiGroups: [""]
  resources: [resourcequotas]
  verbs: [list, watch]
{{- if .Values.jobset.enabled }}
- apiGroups: [jobset.x-k8s.io]
  resources: [jobsets]
  verbs: [list, watch, create, delete]
{{- end }}
{{- if .Values.kueue.enabled }}
# A Workload for each run with a queue, and the handshake about it.
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads/status]
  verbs: [patch]
{{- end }}
{{- end }}
