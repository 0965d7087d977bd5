"""Telling others of events: over webhooks here, over MQTT in `match_server.mqtt`.

The events' own table is the queue. Each write to an event gives it the next number of the counter
`events` in the transaction of the write; whoever tells others keeps the number that it has reached,
and goes on from there whatever died in between.
"""
