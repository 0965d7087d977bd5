"""`edge-agent enroll-device`."""

from pathlib import Path

import click

from edge_agent.cli.errors import says_errors
from edge_agent.config.settings import default_state_dir


@click.command("enroll-device", short_help="Get this box's key from a server, with a short code.")
@click.argument("code", required=False)
@click.option("--server", metavar="URL", help="The address of the match-server; needs CODE.")
@click.option("--camera", metavar="SOURCE", help="Read a QR code that is shown to this camera.")
@click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path),
    envvar="MUSTER_AGENT_CONFIG",
    default=Path("agent.toml"),
    show_default=True,
    help="The configuration file to write or to change.",
)
@click.option(
    "--source",
    metavar="SOURCE",
    help="The camera in a new configuration.  [default: --camera, or 0]",
)
@click.option(
    "--state-dir", type=click.Path(path_type=Path), help="The folder for the key and the outbox."
)
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, exists=True),
    help="The certificate authority of the server.",
)
@click.option("--wait", default=60.0, show_default=True, help="Seconds to wait for the QR code.")
@says_errors
def enroll_device(
    code: str | None,
    server: str | None,
    camera: str | None,
    config: Path,
    source: str | None,
    state_dir: Path | None,
    ca_file: Path | None,
    wait: float,
) -> None:
    """Enroll this box at a match-server with a short code; no key is copied by hand.

    The code is made by `match-server device code --device NAME`, or on the server's page. It is
    valid for 15 minutes, once. Instead of typing it, show its QR code to the box's camera.

    \b
    Example: edge-agent enroll-device --server https://muster.example ABCD-1234
    Example: edge-agent enroll-device --camera /dev/video0
    """
    from edge_agent.fleet.enrollment import enroll, read_invitation
    from shared.commands import installed, shown
    from shared.enrollment_code import Invitation, plain_code

    if camera is not None and code is None and server is None:
        click.echo(f"Show the QR picture to {camera}; it has {wait:.0f} s to see it …", err=True)
        invitation = read_invitation(camera, wait)
    elif camera is None and code is not None and server is not None:
        if not server.startswith(("http://", "https://")):
            raise click.UsageError(
                f"--server: an address begins with https://, like https://{server}"
            )
        invitation = Invitation.read(Invitation(server, plain_code(code)).text())
    else:
        raise click.UsageError(
            "give --server URL and CODE, or --camera SOURCE alone. A code is made on the server: "
            "`match-server device code --device NAME`, or on its page /devices"
        )
    done = enroll(
        invitation,
        config=config,
        state_dir=(state_dir or default_state_dir()).absolute(),
        source=_absolute(source or camera or "0"),
        ca_file=None if ca_file is None else ca_file.absolute(),
    )
    if installed():
        next_steps = f"  {shown('edge-agent doctor')}\n  sudo systemctl enable --now edge-agent"
    else:
        next_steps = (
            f"  edge-agent doctor --config {done.config}\n  edge-agent run --config {done.config}"
        )
    click.echo(
        f"This box is {done.device} at {done.site}, for {done.server}.\n"
        f"Its key is in {done.key_file}, its configuration in {done.config}. Next:\n{next_steps}"
    )


def _absolute(source: str) -> str:
    """Returns an absolute path for a file, so that it is valid in every folder."""
    path = Path(source)
    return str(path.absolute()) if path.exists() else source
