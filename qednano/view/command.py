"""`qednano view`: the web app on this machine's loopback address."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qednano.commands.options import Cluster, Context, Namespace, mirror_of

Places = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ROOT|ARTIFACT|RUN]...",
        help="Folders of local runs, a run's folder, or artifacts; with --cluster names of runs.  "
        "[default: qed-runs, or with --cluster every run of the namespace]",
        show_default=False,
    ),
]


def view(
    places: Places = None,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
    port: Annotated[int, typer.Option("--port", "-p", help="Port; 0 takes a free one.", min=0, max=65535)] = 8765,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="Name that a browser may use for it, besides localhost.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Look at runs, proofs and comparisons in a browser.

    Proofs can be graded by hand there. With --cluster runs are fetched first.

    Only this machine can reach it, and nobody has to log in: another address than a loopback one needs --allow-host.
    """
    import os
    import socket

    from qednano.errors import UsageError

    try:
        import uvicorn

        from qednano.view.app import make_app
        from qednano.view.security import is_loopback
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed: pip install 'qednano[view]'") from None
    if not is_loopback(host) and not allow_host:
        raise UsageError(
            f"--host is {host}, which others can reach, and there is no log-in: name by --allow-host what browsers "
            "will call it, or leave --host away and use an SSH tunnel"
        )
    if cluster:
        mirror = mirror_of(namespace, context)
        folders = [mirror.folder(name) for name in places] if places else mirror.fetch(mirror.runs())
        found = [folder.artifact for folder in folders]
        if not found:
            raise UsageError(f"no EvalRun or ProofDataset has succeeded {mirror.about}; there is nothing to look at")
    else:
        found = [Path(place) for place in places or [os.environ.get("QEDNANO_ROOT", "qed-runs")]]
    app = make_app(found, allow_host or ())
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(f"port {port} of {host} can't be had ({error.strerror}): give another --port") from None
    with listening:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
        app.state.viewer.warm()  # before anybody is told the address: the first page is as fast as the others
        print(f"{url}  (Ctrl+C stops it)", flush=True)
        if show:
            import webbrowser

            webbrowser.open(url)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        server.run(sockets=[listening])
