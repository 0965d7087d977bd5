"""What cameras saw: probes, sightings, events, who is there now."""
