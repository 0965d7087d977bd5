"""Why a server or broker cannot be reached, and what a person can do about it."""

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_NOT_YET_VALID: Final = 9  # X509_V_ERR_CERT_NOT_YET_VALID of OpenSSL
_EXPIRED: Final = 10
_OTHER_NAME: Final = (62, 64)  # host name, address
_CLOCK: Final = "if this box's clock is wrong: sudo timedatectl set-ntp true; else renew it"


@dataclass(frozen=True, slots=True)
class Why:
    """The cause, as the end of a sentence, and advice."""

    cause: str
    advice: str


def why_unreachable(error: BaseException, *, trust: str, plain: str) -> Why:
    """Finds the cause of a library's error.

    `trust` says how to trust an authority; `plain` is the scheme without TLS: `http://`.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _about_certificate(cause, trust)
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            secure = plain.replace("://", "s://")
            return Why("no TLS is spoken there", f"is it {plain} there, and not {secure}?")
        if isinstance(cause, socket.gaierror):
            return Why("its name is not known here", "is the name right, does DNS work?")
        if isinstance(cause, ConnectionRefusedError):
            return Why("nothing listens there", "does it run, is the port right?")
        if isinstance(cause, TimeoutError):
            advice = "is the address right, is it on, does a firewall stand between?"
            return Why("it does not answer", advice)
        if isinstance(cause, ConnectionError):
            secure = plain.replace("://", "s://")
            return Why("it hung up", f"is it {secure} there, and not {plain}?")
    return Why(type(error).__name__, "is the address right, does a firewall stand between?")


def _about_certificate(error: ssl.SSLCertVerificationError, trust: str) -> Why:
    code = error.verify_code
    if code in (_NOT_YET_VALID, _EXPIRED):
        state = "is not valid yet" if code == _NOT_YET_VALID else "has expired"
        return Why(f"its certificate {state}", _CLOCK)
    if code in _OTHER_NAME:
        return Why("its certificate is for another name", "use the name that stands in it")
    return Why("no authority that is trusted here vouches for its certificate", trust)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it wraps: requests and urllib3 put causes into arguments and `reason`."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        held = (*one.args, getattr(one, "reason", None), one.__cause__, one.__context__)
        waiting += [cause for cause in held if isinstance(cause, BaseException)]
