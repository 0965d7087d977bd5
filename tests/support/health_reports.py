"""Health reports of devices."""


def health(clock, device="door-1", **more):
    """Returns the health report of a device as JSON."""
    return {
        "device": device,
        "at": clock.now().isoformat(),
        "version": "0.1.0",
        "model_id": "painted-512@1",
        "uptime_s": 12.5,
        "processors": 4,
        "memory_bytes": 150_000_000,
        "waiting": 0,
        "dropped": 0,
        **more,
    }
