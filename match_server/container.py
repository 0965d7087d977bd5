"""The only place where the services of a process are constructed."""

import contextlib
from dataclasses import dataclass
from functools import partial

from match_server.db.database import Database
from match_server.db.epochs import begin_epoch
from match_server.db.leader_lock import leader_lock
from match_server.folder_id import FolderIds
from match_server.services.audit.access import AccessLog
from match_server.services.audit.chain import append_notes
from match_server.services.audit.pruning import AuditRetention
from match_server.services.audit.reader import Audit
from match_server.services.auth.keys import Keys
from match_server.services.auth.page_sessions import PageSessions
from match_server.services.batches.batches import Batches
from match_server.services.batches.bulk import BulkVectors
from match_server.services.batches.imports import Imports
from match_server.services.devices.configurations import Configurations
from match_server.services.devices.devices import Devices
from match_server.services.devices.enrollment_codes import DeviceCodes
from match_server.services.devices.follower_digests import FollowerDigests
from match_server.services.devices.followers import Followers
from match_server.services.devices.gallery_feed import Feed
from match_server.services.devices.health import HealthReports
from match_server.services.devices.message_keys import MessageKeys
from match_server.services.devices.recognition_ledger import Ledgers
from match_server.services.encryption.secrets import Secrets
from match_server.services.encryption.template_hashes import TemplateHashes
from match_server.services.encryption.vault import Vault
from match_server.services.enrollment.calibrations import Calibrations
from match_server.services.enrollment.collections import Collections
from match_server.services.enrollment.create_on_search import CreateOnSearch
from match_server.services.enrollment.enrollment import Enroller
from match_server.services.enrollment.groups import Groups
from match_server.services.enrollment.learning import Learner
from match_server.services.enrollment.persons import Persons
from match_server.services.enrollment.policy_warnings import PolicyWarnings
from match_server.services.enrollment.references import References
from match_server.services.faces.engines import (
    Engines,
    FindEngine,
    face_engine,
    find_installed,
)
from match_server.services.faces.face_engine import FaceEngine
from match_server.services.feed_watch import FeedWatch
from match_server.services.galleries.background import BackgroundFollower
from match_server.services.galleries.follower import OpenGallery
from match_server.services.galleries.galleries import Galleries, open_segments
from match_server.services.galleries.processes import ProcessReports
from match_server.services.key_rotation import Rotation
from match_server.services.maintenance import Housekeeper, Task
from match_server.services.metrics import Metrics
from match_server.services.model_change.comparison import ModelComparisons
from match_server.services.model_change.reembedding import Reembedding
from match_server.services.policy.operating_point import OperatingPoints
from match_server.services.policy.reference_calibrations import ReferenceCalibrations
from match_server.services.presence import Presence
from match_server.services.privacy.erasure import Erasures
from match_server.services.privacy.erasure_journal import ErasureJournal
from match_server.services.privacy.orphan_files import OrphanFiles
from match_server.services.privacy.retention import RetentionSweep
from match_server.services.recognition.context import Recognition
from match_server.services.recognition.identification import Identification
from match_server.services.recognition.person_cache import PersonCache
from match_server.services.recognition.verification import Verification
from match_server.services.sightings.decisions import Decisions
from match_server.services.sightings.event_feed import EventFeed
from match_server.services.sightings.intake import Probes
from match_server.services.sightings.queries import Events
from match_server.services.sightings.track_templates import TrackTemplates
from match_server.services.storage.files import FileStore
from match_server.services.storage.storages import Storages
from match_server.services.webhooks.webhooks import Webhooks
from match_server.settings import Settings
from models.packs.choice import DetectorChoice
from shared.clock import Clock, SystemClock
from shared.errors import Conflict, Damaged, KeyMissing, MusterError


@dataclass(frozen=True, slots=True)
class Services:
    """All services of one process, with one database and one set of galleries."""

    settings: Settings
    clock: Clock
    database: Database
    faces: FaceEngine  # of new collections
    engines: Engines
    galleries: Galleries
    background: BackgroundFollower
    vault: Vault
    hashes: TemplateHashes
    secrets: Secrets
    files: FileStore
    points: OperatingPoints
    recognition: Recognition
    collections: Collections
    policy_warnings: PolicyWarnings
    calibrations: Calibrations
    persons: Persons
    groups: Groups
    references: References
    reembedding: Reembedding
    comparisons: ModelComparisons
    rotation: Rotation
    storages: Storages
    enroller: Enroller
    bulk: BulkVectors
    batches: Batches
    imports: Imports
    verification: Verification
    identification: Identification
    create_on_search: CreateOnSearch
    probes: Probes
    events: Events
    decisions: Decisions
    keys: Keys
    message_keys: MessageKeys
    page_sessions: PageSessions
    metrics: Metrics
    presence: Presence
    event_feed: EventFeed
    webhooks: Webhooks
    access: AccessLog
    audit: Audit
    audit_retention: AuditRetention
    erasures: Erasures
    journal: ErasureJournal
    retention: RetentionSweep
    housekeeper: Housekeeper
    followers: Followers
    feed: Feed
    feed_watch: FeedWatch
    follower_digests: FollowerDigests
    devices: Devices
    device_codes: DeviceCodes
    health_reports: HealthReports
    configurations: Configurations
    ledgers: Ledgers

    def first_start(self, *, serves: bool = False) -> bool:
        """Create the default collection and finish erasures; returns whether a key exists.

        A server that `serves` boxes over SQLite begins an epoch of the change feed: its whole data
        folder may have been put back from a copy.
        """
        with contextlib.suppress(Conflict):  # another process has created it
            self.collections.ensure(self.settings.default_collection)
        self.files.sweep()
        self.erasures.repeat()
        if serves and self.database.is_sqlite:
            with self.database.connection() as connection:
                begin_epoch(connection, "restarted")
        with contextlib.suppress(KeyMissing, Damaged):  # reported where a secret is used
            self.secrets.seal_plain(self.database)
        return self.keys.any_valid()

    def set_gauges(self) -> None:
        """Set the metrics of this process that are read, not counted."""
        _set_gauges(self.metrics, self.recognition)

    def close(self) -> None:
        self.housekeeper.stop()
        with contextlib.suppress(MusterError):  # without a database, the last minute is lost
            self.access.flush()
            self.keys.note_used()
        self.feed_watch.close()
        self.background.stop()
        self.galleries.close()
        self.database.close()


def _set_gauges(metrics: Metrics, recognition: Recognition) -> None:
    galleries, persons = recognition.galleries, recognition.persons
    metrics.process(
        lag=galleries.lag(),
        differing=galleries.differing(),
        damaged=galleries.damaged(),
        connections=recognition.database.connections(),
        cache_bytes=persons.bytes,
        cache_hits=persons.hits,
        cache_misses=persons.misses,
    )


def build_services(
    settings: Settings,
    *,
    faces: FaceEngine | None = None,
    clock: Clock | None = None,
    find_engine: FindEngine | None = None,
    references: ReferenceCalibrations | None = None,
    open_gallery: OpenGallery = open_segments,
) -> Services:
    """Build the services of one process; the database must be migrated, nothing is opened yet."""
    clock = clock or SystemClock()
    detector = DetectorChoice(settings.model_detector)
    faces = faces or face_engine(settings.model_pack, settings.picture_limits, detector)
    find_engine = find_engine or find_installed(settings.picture_limits, detector)
    engines = Engines(faces, find_engine)
    database = Database(
        settings.sqlalchemy_url,
        append_notes,
        connections=settings.database_connections,
        waiting_writers=max(1, settings.threads // 4),
    )
    vault = Vault(settings.keyring)
    secrets = Secrets(vault)
    points = OperatingPoints(database, clock, references or ReferenceCalibrations())
    metrics = Metrics()
    folder = settings.data_dir / "galleries"
    galleries = Galleries(
        database,
        vault,
        open_gallery,
        folder=folder,
        on_scan=metrics.scan,
        on_mend=partial(metrics.mended, "process"),
    )
    files = FileStore(settings.data_dir, database)
    known_persons = PersonCache(database)
    recognition = Recognition(database, engines, galleries, vault, points, known_persons, clock)
    collections = Collections(recognition, files)
    bulk = BulkVectors(database, clock, vault)
    enroller = Enroller(recognition, files)
    batches = Batches(enroller, bulk)
    identification = Identification(recognition)
    policy_warnings = PolicyWarnings(collections)
    keys = Keys(database, clock)
    devices = Devices(database, keys, clock)
    followers = Followers(database, clock)
    access = AccessLog(database, clock)
    audit = Audit(database)
    journal = ErasureJournal(settings.data_dir, database, clock)
    pruning = AuditRetention(database, clock, settings.retain_audit_days)
    reports = ProcessReports(database, FolderIds(folder), clock)
    erasures = Erasures(
        database, files, galleries, clock, settings.declared_backups, journal, reports
    )
    orphans = OrphanFiles(settings.data_dir, database)
    hashes = TemplateHashes(database, vault)
    tracks = TrackTemplates(database, vault, clock, settings.fuse_tracks_s)
    retention = RetentionSweep(database, files, erasures, clock, settings, metrics.retention)
    return Services(
        settings=settings,
        clock=clock,
        database=database,
        faces=faces,
        engines=engines,
        galleries=galleries,
        background=BackgroundFollower(database, galleries, reports),
        vault=vault,
        hashes=hashes,
        secrets=secrets,
        files=files,
        points=points,
        recognition=recognition,
        calibrations=Calibrations(database, clock, points),
        collections=collections,
        policy_warnings=policy_warnings,
        persons=Persons(database, files, clock),
        groups=Groups(database, clock),
        references=References(database, files, clock, vault),
        reembedding=Reembedding(recognition, files),
        comparisons=ModelComparisons(recognition),
        rotation=Rotation(database, vault, secrets, files, clock),
        storages=Storages(database, files, clock),
        enroller=enroller,
        bulk=bulk,
        batches=batches,
        imports=Imports(collections, batches, settings.max_body_bytes),
        verification=Verification(recognition),
        identification=identification,
        create_on_search=CreateOnSearch(recognition, identification),
        probes=Probes(recognition, files, tracks, metrics, settings.default_collection),
        events=Events(database, files, vault, clock),
        decisions=Decisions(recognition, Learner(recognition)),
        keys=keys,
        message_keys=MessageKeys(database, keys, settings.unsigned_messages),
        page_sessions=PageSessions(database, clock),
        metrics=metrics,
        presence=Presence(database, clock),
        event_feed=EventFeed(database, clock),
        webhooks=Webhooks(database, clock, secrets),
        access=access,
        audit=audit,
        audit_retention=pruning,
        erasures=erasures,
        journal=journal,
        retention=retention,
        housekeeper=Housekeeper(
            [
                Task("write the access log", 60, access.flush, alone=False),
                Task("write when API keys were last used", 60, keys.note_used, alone=False),
                Task(
                    "set the gauges of this process",
                    5,
                    lambda: _set_gauges(metrics, recognition),
                    alone=False,
                ),
                Task("compare galleries with the database", 300, galleries.compare, alone=False),
                Task("verify the files of galleries", 6 * 3600, galleries.verify, alone=False),
                Task("write the erasure journal", 15, journal.keep_up, alone=False),
                Task("repeat lost erasures", 15, erasures.repeat_in_new_epoch, alone=False),
                Task("delete files of erased rows", 15, files.sweep, alone=False),
                Task("complete erasures", 15, erasures.settle, alone=True),
                Task("hash templates that have no hash", 60, hashes.fill, alone=True),
                Task("warn about thresholds", 86_400, policy_warnings.log, alone=True),
                Task("delete what is past its retention", 600, retention.run, alone=True),
                Task("delete old track templates", 15, tracks.sweep, alone=True),
                Task("delete files of interrupted writes", 3600, orphans.run, alone=False),
                Task("delete old entries of the audit log", 3600, pruning.run, alone=True),
                Task("log the anchor of the audit log", 3600, audit.log_anchor, alone=True),
            ],
            leader_lock(database, "housekeeping", settings.data_dir),
            clock,
        ),
        followers=followers,
        feed=Feed(database, followers, clock, vault, points),
        feed_watch=FeedWatch(database),
        follower_digests=FollowerDigests(
            database, followers, vault, clock, partial(metrics.mended, "box")
        ),
        devices=devices,
        device_codes=DeviceCodes(
            database, devices, keys, clock, settings.public_url, settings.public_certificate
        ),
        health_reports=HealthReports(database, clock),
        configurations=Configurations(database, clock, settings.default_collection, secrets),
        ledgers=Ledgers(database),
    )
