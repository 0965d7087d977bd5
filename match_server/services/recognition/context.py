"""The parts that everything about recognition works with."""

from dataclasses import dataclass

from match_server.db.database import Database
from match_server.services.encryption.vault import Vault
from match_server.services.faces.engines import Engines
from match_server.services.galleries.galleries import Galleries
from match_server.services.policy.operating_point import OperatingPoints
from match_server.services.recognition.person_cache import PersonCache
from shared.clock import Clock


@dataclass(frozen=True, slots=True)
class Recognition:
    """One process's database, face models, galleries, keys, operating points and known persons."""

    database: Database
    engines: Engines
    galleries: Galleries
    vault: Vault
    points: OperatingPoints
    persons: PersonCache
    clock: Clock
