"""What every part of Muster shares: wire messages, topics, template codec, errors, ids, time."""
