"""Devices: creating and enrolling them, their health, configuration and galleries.

A key of role `device` speaks for its own device only.
"""

from typing import TypeVar

from flask import request

from match_server.api.auth import client_network, require_device
from match_server.api.routing import Routes
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
from match_server.schemas.feed import FollowerView, GalleriesPut
from match_server.services.auth.keys import Permission
from shared.errors import MalformedInput
from shared.wire.device import DeviceGrant, HealthAnswer, HealthMessage, ReportedConfig

_DEVICE = "/v1/devices/<device>"

Message = TypeVar("Message", HealthMessage, ReportedConfig)


def device_routes(services: Services) -> Routes:
    routes = Routes("devices")
    devices = services.devices

    @routes.add(
        "PUT",
        f"{_DEVICE}/galleries",
        Permission.ADMINISTER,
        errors=(404, 409),
        example={"galleries": [{"collection": "staff", "groups": ["night-shift"]}]},
    )
    def put_device_galleries(device: str, body: GalleriesPut) -> Page[FollowerView]:
        """Let a device hold exactly these collections or groups."""
        return services.followers.put(device, body)

    @routes.add(
        "POST",
        "/v1/devices",
        Permission.ADMINISTER,
        status=201,
        errors=(404, 409),
        example={"name": "entrance-box", "site": "hq", "collection": "staff"},
    )
    def create_device(body: DeviceCreate) -> DeviceCreated:
        """Create a device; its key is shown only this once."""
        return devices.create(body)

    @routes.add("GET", "/v1/devices", Permission.EVENTS, errors=(404,))
    def list_devices(query: DeviceQuery) -> Page[DeviceView]:
        """List the devices and their state."""
        return devices.page(query)

    @routes.add("GET", _DEVICE, Permission.EVENTS, errors=(404,))
    def get_device(device: str) -> DeviceDetail:
        """Read a device: its state, missing probes, and health in the last hour."""
        return devices.get(device)

    @routes.add(
        "PATCH", _DEVICE, Permission.ADMINISTER, errors=(404,), example={"collection": "staff"}
    )
    def update_device(device: str, body: DevicePatch) -> DeviceView:
        """Change the site or the collection of a device."""
        return devices.change(device, body)

    @routes.add("DELETE", _DEVICE, Permission.ADMINISTER, errors=(404,))
    def remove_device(device: str) -> DeviceErased:
        """Remove a device and revoke its keys."""
        return devices.erase(device)

    @routes.add("GET", f"{_DEVICE}/ledger", Permission.EVENTS, errors=(404,))
    def get_device_ledger(device: str, query: LedgerQuery) -> LedgerView:
        """Read why tracks were not searched, by camera and day."""
        return services.ledgers.of(device, query)

    @routes.add("POST", f"{_DEVICE}/health", Permission.PROBES)
    def send_device_health(device: str, body: HealthMessage) -> HealthAnswer:
        """Report the health of a device; sent by the device itself."""
        return services.health_reports.take(_own(device, body))

    return routes


def device_config_routes(services: Services) -> Routes:
    routes = Routes("devices")
    configurations = services.configurations

    @routes.add("GET", f"{_DEVICE}/config", Permission.PROBES, errors=(404,))
    def get_device_config(device: str) -> ConfigView:
        """Read the desired and the reported configuration of a device."""
        require_device(device)
        return configurations.get(device)

    @routes.add(
        "PUT",
        f"{_DEVICE}/config",
        Permission.ADMINISTER,
        errors=(404, 409),
        example={"config": {"shots": {"gate": "passport"}}},
    )
    def put_device_config(device: str, body: ConfigPut) -> ConfigView:
        """Set the desired configuration of a device."""
        return configurations.desire(device, body)

    @routes.add("PUT", f"{_DEVICE}/config/reported", Permission.PROBES)
    def report_device_config(device: str, body: ReportedConfig) -> ConfigView:
        """Report how a desired configuration was applied; sent by the device itself."""
        return configurations.report(_own(device, body))

    return routes


def device_enrollment_routes(services: Services) -> Routes:
    routes = Routes("devices")
    codes = services.device_codes

    @routes.add("POST", f"{_DEVICE}/codes", Permission.ADMINISTER, status=201, errors=(404,))
    def create_device_code(device: str) -> DeviceCodeMade:
        """Create a code with which the device gets its key, once, within 15 minutes."""
        return codes.make(device)

    @routes.add(
        "POST", "/v1/devices/enroll", None, errors=(401, 429), example={"code": "ABCD-1234"}
    )
    def enroll_device(body: DeviceEnroll) -> DeviceGrant:
        """Exchange a code for the key of a device; earlier keys of the device are revoked."""
        return codes.redeem(body.code, client_network(request), signs=body.signs)

    return routes


def _own(device: str, message: Message) -> Message:
    """The message. Raises Forbidden or MalformedInput when it is about another device."""
    require_device(device)
    if message.device != device:
        raise MalformedInput(f"device: the message is about {message.device!r}, not {device!r}")
    return message
