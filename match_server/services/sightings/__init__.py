"""What cameras saw: probes, sightings and decisions about them."""
