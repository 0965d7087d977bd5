"""A network camera, `rtsp://127.0.0.1:PORT/camera`, for the system's Python (it has GObject).

usage: rtsp_server.py [--only tcp|udp] [--login NAME:PASSWORD] [--pictures FOLDER] PORT

FOLDER holds 000.jpg to 249.jpg, which are shown at 25 a second, again and again.
"""

import argparse

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")

from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

VIEWER = "viewer"


def protect(
    server: GstRtspServer.RTSPServer, factory: GstRtspServer.RTSPMediaFactory, login: str
) -> None:
    """Requires a login by digest (RFC 2069) for the pictures."""
    name, _, password = login.partition(":")
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", VIEWER)
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    auth.add_digest(name, password, token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    for what in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role(VIEWER, what, True)
    factory.set_permissions(permissions)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["tcp", "udp"])
    parser.add_argument("--login")
    parser.add_argument("--pictures")
    parser.add_argument("port")
    options = parser.parse_args()
    Gst.init(None)
    factory = GstRtspServer.RTSPMediaFactory()
    source = (
        "videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=240,framerate=25/1"
        " ! jpegenc"
    )
    if options.pictures:
        source = (
            f"multifilesrc location={options.pictures}/%03d.jpg stop-index=249 loop=true"
            " caps=image/jpeg,framerate=25/1 ! jpegdec ! videoconvert"
            " ! video/x-raw,format=I420 ! jpegenc"
        )
    factory.set_launch(f"( {source} ! rtpjpegpay name=pay0 pt=26 )")
    if options.only:
        factory.set_protocols(getattr(GstRtsp.RTSPLowerTrans, options.only.upper()))
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(options.port)
    if options.login:
        protect(server, factory, options.login)
    server.get_mount_points().add_factory("/camera", factory)
    server.attach(None)
    print("up", flush=True)
    GLib.MainLoop().run()


main()
