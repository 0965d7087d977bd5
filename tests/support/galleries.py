"""A gallery of a server, as a search finds it."""

from match_server.container import Services
from match_server.services.galleries.galleries import Galleries
from match_server.services.lookups import collection_named
from shared.gallery import MemoryIndex


def gallery_of(galleries: Galleries, services: Services) -> MemoryIndex:
    """Returns the gallery of the default collection with all that is committed."""
    with services.database.read() as session:
        return galleries.caught_up(collection_named(session, "default")).gallery
