"""The tables. Only `persons` holds names of people, so deleting a row erases the name.

Internal keys are integers; clients see the columns `id` (UUIDv7, or chosen by the client).
"""

from match_server.db.tables.audit import AuditEntry, AuditHead, AuditStart
from match_server.db.tables.auth import ApiKey, EndedSession
from match_server.db.tables.base import Json, Table, UtcTime
from match_server.db.tables.calibrations import Calibration
from match_server.db.tables.change_feed import Change, Counter, Epoch, ServerProcess
from match_server.db.tables.decisions import EventDecision, EventLabel, EventTemplate
from match_server.db.tables.devices import (
    Device,
    DeviceCode,
    DeviceConfiguration,
    DeviceGap,
    DeviceHealth,
    Follower,
    LedgerEntry,
)
from match_server.db.tables.encryption import DataKey
from match_server.db.tables.erasures import Erasure
from match_server.db.tables.files import DoomedFile, Storage
from match_server.db.tables.model_changes import ModelChange, SpareTemplate, Unembedded
from match_server.db.tables.people import Collection, Group, Membership, Person, PersonField
from match_server.db.tables.references import Image, ImportedFile, Template
from match_server.db.tables.sightings import (
    CameraView,
    Event,
    EventCandidate,
    EventTrack,
    Probe,
    TrackInView,
    TrackTemplate,
)
from match_server.db.tables.webhooks import Delivery, EventReader, Webhook

__all__ = [
    "ApiKey",
    "AuditEntry",
    "AuditHead",
    "AuditStart",
    "Calibration",
    "CameraView",
    "Change",
    "Collection",
    "Counter",
    "DataKey",
    "Delivery",
    "Device",
    "DeviceCode",
    "DeviceConfiguration",
    "DeviceGap",
    "DeviceHealth",
    "DoomedFile",
    "EndedSession",
    "Epoch",
    "Erasure",
    "Event",
    "EventCandidate",
    "EventDecision",
    "EventLabel",
    "EventReader",
    "EventTemplate",
    "EventTrack",
    "Follower",
    "Group",
    "Image",
    "ImportedFile",
    "Json",
    "LedgerEntry",
    "Membership",
    "ModelChange",
    "Person",
    "PersonField",
    "Probe",
    "ServerProcess",
    "SpareTemplate",
    "Storage",
    "Table",
    "Template",
    "TrackInView",
    "TrackTemplate",
    "Unembedded",
    "UtcTime",
    "Webhook",
]
