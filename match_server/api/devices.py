"""The boxes: announcing and inviting them, how they are, what they run with."""

from typing import TypeVar

from flask import g, request

from match_server.api.auth import client_network
from match_server.api.routing import Endpoint
from match_server.container import Services
from match_server.schemas.base import Page
from match_server.schemas.devices import (
    ConfigPut,
    ConfigView,
    DeviceCodeMade,
    DeviceCreate,
    DeviceCreated,
    DeviceDetail,
    DeviceEnroll,
    DeviceErased,
    DevicePatch,
    DeviceQuery,
    DeviceView,
    LedgerQuery,
    LedgerView,
)
from match_server.services.auth.keys import Permission, Principal
from shared.errors import Forbidden, MalformedInput
from shared.wire.device import DeviceGrant, HealthAnswer, HealthMessage, ReportedConfig

_DEVICE = "/v1/devices/<device>"

Message = TypeVar("Message", HealthMessage, ReportedConfig)


def device_endpoints(services: Services) -> list[Endpoint]:
    """Devices. A key of role `device` speaks for its own device only."""
    do = services.devices
    return [
        Endpoint(
            "POST", "/v1/devices", "devices", "Announce a box; its key is shown this once",
            handle=lambda body: do.create(body), permission=Permission.ADMINISTER,
            body=DeviceCreate, answer=DeviceCreated, status=201, errors=(400, 404, 409),
            example={"name": "entrance-box", "site": "hq", "collection": "staff"},
        ),
        Endpoint(
            "GET", "/v1/devices", "devices", "List the boxes and how they are",
            handle=lambda query: do.page(query), permission=Permission.EVENTS,
            query=DeviceQuery, answer=Page[DeviceView], errors=(400, 404),
        ),
        Endpoint(
            "GET", _DEVICE, "devices", "Read one box, its missing numbers and last hour",
            handle=lambda device: do.get(device), permission=Permission.EVENTS,
            answer=DeviceDetail, errors=(404,),
        ),
        Endpoint(
            "PATCH", _DEVICE, "devices", "Give a box another site or collection",
            handle=lambda device, body: do.change(device, body),
            permission=Permission.ADMINISTER, body=DevicePatch, answer=DeviceView,
            errors=(400, 404), example={"collection": "staff"},
        ),
        Endpoint(
            "DELETE", _DEVICE, "devices", "Forget a box and revoke its keys",
            handle=lambda device: do.erase(device), permission=Permission.ADMINISTER,
            answer=DeviceErased, errors=(404,),
        ),
        Endpoint(
            "GET", f"{_DEVICE}/ledger", "devices", "Why was nobody recognised, by camera and day",
            handle=lambda device, query: services.ledgers.of(device, query),
            permission=Permission.EVENTS, query=LedgerQuery, answer=LedgerView, errors=(400, 404),
        ),
        Endpoint(
            "POST", f"{_DEVICE}/health", "devices", "How the box is, said by itself",
            handle=lambda device, body: services.health_reports.take(
                _own(g.principal, device, body)
            ),
            permission=Permission.PROBES, body=HealthMessage, answer=HealthAnswer, errors=(400,),
        ),
        *_configuration(services),
        *_enrolling(services),
    ]  # fmt: skip


def _configuration(services: Services) -> list[Endpoint]:
    do = services.configurations
    return [
        Endpoint(
            "GET", f"{_DEVICE}/config", "devices", "What a box is to run with, and what it runs",
            handle=lambda device: do.get(_allowed(g.principal, device)),
            permission=Permission.PROBES, answer=ConfigView, errors=(404,),
        ),
        Endpoint(
            "PUT", f"{_DEVICE}/config", "devices", "Want a box to run with these settings",
            handle=lambda device, body: do.desire(device, body),
            permission=Permission.ADMINISTER, body=ConfigPut, answer=ConfigView,
            errors=(400, 404, 409), example={"config": {"shots": {"gate": "passport"}}},
        ),
        Endpoint(
            "PUT", f"{_DEVICE}/config/reported", "devices", "What the box made of it, by itself",
            handle=lambda device, body: do.report(_own(g.principal, device, body)),
            permission=Permission.PROBES, body=ReportedConfig, answer=ConfigView, errors=(400,),
        ),
    ]  # fmt: skip


def _enrolling(services: Services) -> list[Endpoint]:
    do = services.device_codes
    return [
        Endpoint(
            "POST", f"{_DEVICE}/codes", "devices",
            "A code with which the box fetches its key, once, within 15 minutes",
            handle=lambda device: do.make(device), permission=Permission.ADMINISTER,
            answer=DeviceCodeMade, status=201, errors=(404,),
        ),
        Endpoint(
            "POST", "/v1/devices/enroll", "devices",
            "The key of a box for its code; earlier keys of the box end",
            handle=lambda body: do.redeem(
                body.code, client_network(request), signs=body.signs
            ),
            permission=None, body=DeviceEnroll, answer=DeviceGrant, errors=(400, 401, 429),
            example={"code": "ABCD-1234"},
        ),
    ]  # fmt: skip


def _allowed(principal: Principal, device: str) -> str:
    if principal.device is not None and principal.device != device:
        raise Forbidden(f"this key speaks for device {principal.device!r}, not for {device!r}")
    return device


def _own(principal: Principal, device: str, message: Message) -> Message:
    """The message, if it is about the device of the address and the key may speak for that."""
    _allowed(principal, device)
    if message.device != device:
        raise MalformedInput(f"device: the message is about {message.device!r}, not {device!r}")
    return message
