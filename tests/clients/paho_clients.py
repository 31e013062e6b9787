"""paho (Python) against Headwater: MQTT 3.1.1 and 5, QoS 0 and 1, retained, will, wildcards, and query results.

Arguments: host, port, `3.1.1` or `5`. The server has the streams of tests/end_to_end/clients.rs: readings published to
`plant/{device}/temp` come back as `hot/{device}` when they are above 30.
"""

import json
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

HOST, PORT, VERSION = sys.argv[1], int(sys.argv[2]), sys.argv[3]
FIVE = VERSION == "5"
NAME = "paho-" + VERSION.replace(".", "")
PATIENCE = 90


class Peer:
    """A connected client whose messages and acknowledgements wait in queues."""

    def __init__(self, name, will=None):
        self.messages, self.events = queue.Queue(), queue.Queue()
        self.client = self.make(name)
        self.client.on_connect = lambda *a: self.events.put(("connect", a[3]))
        self.client.on_subscribe = lambda client, userdata, mid, granted, *a: self.events.put(("subscribe", granted))
        self.client.on_message = lambda client, userdata, message: self.messages.put(message)
        if will:
            self.client.will_set(*will, qos=1)
        self.client.connect(HOST, PORT, keepalive=30)
        self.client.loop_start()
        code = self.wait("connect")
        assert code == 0, f"CONNACK {code}"

    @staticmethod
    def make(name):
        protocol = mqtt.MQTTv5 if FIVE else mqtt.MQTTv311
        if hasattr(mqtt, "CallbackAPIVersion"):
            return mqtt.Client(mqtt.CallbackAPIVersion.VERSION1, client_id=name, protocol=protocol)
        return mqtt.Client(client_id=name, protocol=protocol)

    def wait(self, kind):
        found, value = self.events.get(timeout=PATIENCE)
        assert found == kind, (found, kind)
        return value

    def subscribe(self, topic, qos):
        self.client.subscribe(topic, qos=qos)
        granted = [getattr(code, "value", code) for code in self.wait("subscribe")]
        assert granted == [qos], f"{topic}: granted {granted}, asked for {qos}"

    def publish(self, topic, payload, **more):
        info = self.client.publish(topic, payload, **more)
        info.wait_for_publish(PATIENCE)
        assert info.is_published(), f"no acknowledgement for {topic}"

    def receive(self):
        return self.messages.get(timeout=PATIENCE)


subscriber = Peer(NAME + "-sub")
subscriber.subscribe(f"hot/{NAME}", 1)
subscriber.subscribe(f"plain/{NAME}/#", 1)
publisher = Peer(NAME)

# Readings in, results of the continuous query out, in order.
for n in range(60):
    publisher.publish(f"plant/{NAME}/temp", json.dumps({"n": n, "temp": n}), qos=1)
results = [json.loads(subscriber.receive().payload) for _ in range(29)]
assert [row["n"] for row in results] == list(range(31, 60)), results

# QoS 0 and 1 reach a wildcard subscription with their payloads whole.
blob = bytes(range(256)) * 100
publisher.publish(f"plain/{NAME}/a", blob, qos=0)
message = subscriber.receive()
assert (message.topic, message.payload, message.retain) == (f"plain/{NAME}/a", blob, 0), message.topic
properties = None
if FIVE:
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("first", "1"), ("second", "2"), ("first", "3")]
    properties.ContentType = "application/json"
publisher.publish(f"plain/{NAME}/b", b"{}", qos=1, **({"properties": properties} if FIVE else {}))
message = subscriber.receive()
assert (message.qos, message.payload) == (1, b"{}"), message.qos
if FIVE:
    assert message.properties.UserProperty == [("first", "1"), ("second", "2"), ("first", "3")]
    assert message.properties.ContentType == "application/json"

# A retained message waits for a later subscriber, marked as retained; an empty one removes it.
publisher.publish(f"retained/{NAME}", b"kept", qos=1, retain=True)
late = Peer(NAME + "-late")
late.subscribe(f"retained/{NAME}", 1)
message = late.receive()
assert (message.payload, message.retain) == (b"kept", 1)
publisher.publish(f"retained/{NAME}", b"", qos=1, retain=True)
assert late.receive().payload == b""
later = Peer(NAME + "-later")
later.subscribe(f"retained/{NAME}", 1)
later.subscribe(f"marker/{NAME}", 1)
publisher.publish(f"marker/{NAME}", b"end", qos=1)
assert later.receive().topic == f"marker/{NAME}", "the removed retained message came"

# A will comes when a client vanishes without DISCONNECT.
doomed = Peer(NAME + "-doomed", will=(f"plain/{NAME}/will", b"gone"))
doomed.client.loop_stop()
doomed.client.socket().close()
message = subscriber.receive()
assert (message.topic, message.payload) == (f"plain/{NAME}/will", b"gone"), message.topic

for peer in (subscriber, publisher, late, later):
    peer.client.disconnect()
print(f"paho {mqtt.__name__} over MQTT {VERSION}: ok")
