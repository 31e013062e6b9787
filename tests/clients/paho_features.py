"""paho (Python) against Headwater: QoS 2, persistent sessions, shares, takeover, empty client ids, keep alive 0, wills in all QoS,
payloads up to the limit and one byte over, and in MQTT 5 what travels with a message.

Arguments: host, port, `3.1.1` or `5`, the server's largest packet in bytes.
"""

import queue
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

HOST, PORT, VERSION, PACKET_MAX = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
FIVE = VERSION == "5"
NAME = "features-" + VERSION.replace(".", "")
PATIENCE = 90


class Peer:
    """A connected client whose messages and events wait in queues. One that stays keeps its session."""

    def __init__(self, name, stay=False, keepalive=30, will=None):
        self.messages, self.events = queue.Queue(), queue.Queue()
        protocol = mqtt.MQTTv5 if FIVE else mqtt.MQTTv311
        more = {} if FIVE else {"clean_session": not stay}
        if hasattr(mqtt, "CallbackAPIVersion"):
            more["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION1
        self.client = mqtt.Client(client_id=name, protocol=protocol, **more)
        self.client.on_connect = lambda c, u, flags, code, *a: self.events.put(("connect", code, flags["session present"], a))
        self.client.on_subscribe = lambda c, u, mid, granted, *a: self.events.put(("subscribe", granted))
        self.client.on_disconnect = lambda c, u, code, *a: self.events.put(("disconnect", code))
        self.client.on_message = lambda c, u, message: self.messages.put(message)
        if will:
            self.client.will_set(will[0], will[1], qos=will[2])
        begin = {}
        if FIVE:
            begin["clean_start"] = not stay
            begin["properties"] = Properties(PacketTypes.CONNECT)
            begin["properties"].SessionExpiryInterval = 600 if stay else 0
        self.client.connect(HOST, PORT, keepalive=keepalive, **begin)
        self.client.loop_start()
        _, code, self.present, self.told = self.wait("connect")
        assert code == 0, f"CONNACK {code}"

    def wait(self, kind):
        event = self.events.get(timeout=PATIENCE)
        assert event[0] == kind, (event, kind)
        return event

    def subscribe(self, topic, **more):
        self.client.subscribe(topic, **more)
        return [getattr(code, "value", code) for code in self.wait("subscribe")[1]]

    def publish(self, topic, payload, **more):
        info = self.client.publish(topic, payload, **more)
        info.wait_for_publish(PATIENCE)
        assert info.is_published(), f"no acknowledgement for {topic}"

    def receive(self):
        return self.messages.get(timeout=PATIENCE)

    def vanish(self):
        self.client.loop_stop()
        self.client.socket().close()

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()


publisher = Peer(NAME)

# Each QoS by each QoS: the lower one arrives, once, in order.
subscriber = Peer(NAME + "-sub")
for granted in (0, 1, 2):
    assert subscriber.subscribe(f"{NAME}/qos/{granted}", qos=granted) == [granted]
    for qos in (0, 1, 2):
        publisher.publish(f"{NAME}/qos/{granted}", str(qos), qos=qos)
        message = subscriber.receive()
        assert (message.payload, message.qos) == (str(qos).encode(), min(qos, granted)), (message.qos, granted)

# A session stays while its client is away, and what is published meanwhile waits in it.
away = Peer(NAME + "-away", stay=True)
assert not away.present
assert away.subscribe(f"{NAME}/away", qos=2) == [2]
away.leave()
for n in range(100):
    publisher.publish(f"{NAME}/away", str(n), qos=1 + n % 2)
away = Peer(NAME + "-away", stay=True)
assert away.present
numbers = {1: [], 2: []}
for _ in range(100):
    message = away.receive()
    numbers[message.qos].append(int(message.payload))
assert numbers == {1: list(range(0, 100, 2)), 2: list(range(1, 100, 2))}, numbers
away.leave()
assert not Peer(NAME + "-away").present, "a clean session ends the old one"

# A share: each message to one of its members.
members = [Peer(f"{NAME}-member-{n}") for n in range(3)]
for member in members:
    assert member.subscribe(f"$share/{NAME}/{NAME}/jobs/#", qos=1) == [1]
for n in range(60):
    publisher.publish(f"{NAME}/jobs/{n % 4}", str(n), qos=1)
done = []
deadline = time.monotonic() + PATIENCE
while len(done) < 60 and time.monotonic() < deadline:
    for member in members:
        while not member.messages.empty():
            done.append(int(member.receive().payload))
    time.sleep(0.01)
assert sorted(done) == list(range(60)), sorted(done)

# A client id that is used again takes the connection over.
first = Peer(NAME + "-same")
first.client.reconnect_delay_set(3600, 3600)
second = Peer(NAME + "-same")
code = first.wait("disconnect")[1]
assert not FIVE or getattr(code, "value", code) in (0x8E, 1, 7), code
assert second.subscribe(f"{NAME}/same", qos=1) == [1]
first.client.loop_stop()

# Without a client id and without a keep alive.
nobody, nobody_else = Peer("", keepalive=0), Peer("", keepalive=0)
assert nobody.subscribe(f"{NAME}/nobody", qos=1) == [1]
nobody_else.publish(f"{NAME}/nobody", b"hi", qos=1)
assert nobody.receive().payload == b"hi"

# Wills in each QoS.
assert subscriber.subscribe(f"{NAME}/will/+", qos=2) == [2]
for qos in (0, 1, 2):
    Peer(f"{NAME}-doomed-{qos}", will=(f"{NAME}/will/{qos}", b"gone", qos)).vanish()
    message = subscriber.receive()
    assert (message.topic, message.qos) == (f"{NAME}/will/{qos}", qos), (message.topic, message.qos)

# The largest packet is carried; one byte more ends the connection, and only that.
topic = f"{NAME}/large"
assert subscriber.subscribe(topic, qos=1) == [1]
# First byte, four bytes of remaining length (three up to 2 MiB), topic, packet id, and in MQTT 5 no properties.
room = PACKET_MAX - 1 - (3 if PACKET_MAX < 2 ** 21 else 4) - 2 - len(topic) - 2 - (1 if FIVE else 0)
publisher.publish(topic, b"x" * room, qos=1)
assert len(subscriber.receive().payload) == room
loud = Peer(NAME + "-loud")
loud.client.reconnect_delay_set(3600, 3600)
loud.client.publish(topic, b"x" * (room + 1), qos=1)
loud.wait("disconnect")
loud.client.loop_stop()
publisher.publish(topic, b"after", qos=1)
assert subscriber.receive().payload == b"after"

if FIVE:
    properties = Properties(PacketTypes.PUBLISH)
    properties.PayloadFormatIndicator = 1
    properties.MessageExpiryInterval = 3600
    properties.ContentType = "text/plain"
    properties.ResponseTopic = f"{NAME}/answers"
    properties.CorrelationData = b"\x00\xff"
    properties.UserProperty = [("b", "1"), ("a", "2"), ("b", "3")]
    identified = Properties(PacketTypes.SUBSCRIBE)
    identified.SubscriptionIdentifier = 77
    options = SubscribeOptions(qos=1, noLocal=True, retainAsPublished=True)
    assert subscriber.subscribe(f"{NAME}/props", options=options, properties=identified) == [1]
    subscriber.publish(f"{NAME}/props", b"own", qos=1)
    publisher.publish(f"{NAME}/props", b"all", qos=1, retain=True, properties=properties)
    message = subscriber.receive()
    got = message.properties
    assert (message.payload, message.retain) == (b"all", 1), message.payload
    assert (got.PayloadFormatIndicator, got.ContentType) == (1, "text/plain")
    assert (got.ResponseTopic, got.CorrelationData) == (f"{NAME}/answers", b"\x00\xff")
    assert got.UserProperty == [("b", "1"), ("a", "2"), ("b", "3")], got.UserProperty
    assert got.SubscriptionIdentifier == [77] and 3500 < got.MessageExpiryInterval <= 3600

print(f"paho's features over MQTT {VERSION}: ok")
