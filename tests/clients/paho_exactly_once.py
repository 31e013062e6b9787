"""QoS 2 from paho to paho through a server that is killed again and again.

Arguments: host, port, `3.1.1` or `5`. Both clients keep their sessions and connect again by themselves. Numbers are
published until a line comes on standard input; then every number that was published must have arrived once, and in the order of
the log, which a third client replays. (paho may send a new message before the ones it sends again.)
"""

import sys
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

HOST, PORT, VERSION = sys.argv[1], int(sys.argv[2]), sys.argv[3]
FIVE = VERSION == "5"
NAME = "once-" + VERSION.replace(".", "")
PATIENCE = 90
WINDOW = 50


RESEND_PUBREL = getattr(mqtt, "mqtt_ms_resend_pubrel", None) or mqtt.MessageState.MQTT_MS_RESEND_PUBREL


class Client(mqtt.Client):
    """paho 1.6 forgets at its second attempt to connect that a message was received, and publishes it anew."""

    def _messages_reconnect_reset_out(self):
        received = [message for message in self._out_messages.values() if message.state == RESEND_PUBREL]
        super()._messages_reconnect_reset_out()
        for message in received:
            message.state = RESEND_PUBREL


def client(name, on_connect=None):
    protocol = mqtt.MQTTv5 if FIVE else mqtt.MQTTv311
    more = {} if FIVE else {"clean_session": False}
    if hasattr(mqtt, "CallbackAPIVersion"):
        made = Client(mqtt.CallbackAPIVersion.VERSION1, client_id=name, protocol=protocol, **more)
    else:
        made = Client(client_id=name, protocol=protocol, **more)
    made.reconnect_delay_set(min_delay=0.05, max_delay=0.2)
    made.max_inflight_messages_set(WINDOW)
    made.on_connect = on_connect
    return made


def connect(made):
    if FIVE:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        made.connect(HOST, PORT, keepalive=30, clean_start=False, properties=properties)
    else:
        made.connect(HOST, PORT, keepalive=30)
    made.loop_start()


def wait(what, ready):
    end = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
        time.sleep(0.02)


received, connects, subscribed = [], [], threading.Event()


def connected(subscriber, userdata, flags, code, *more):
    # Subscribed to once: what survives the server survives it in the session.
    present = flags["session present"]
    connects.append(present)
    if len(connects) == 1:
        subscriber.subscribe(f"{NAME}/#", qos=2)


subscriber = client(NAME + "-sub", connected)
subscriber.on_subscribe = lambda *a: subscribed.set()
subscriber.on_message = lambda c, u, message: received.append(int(message.payload))
connect(subscriber)
assert subscribed.wait(PATIENCE), "no SUBACK"
completed = []
publisher = client(NAME + "-pub")
publisher.on_publish = lambda c, u, mid, *a: completed.append(mid)
connect(publisher)

stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
print("running", flush=True)
published = 0
while not stop.is_set():
    # What cannot be sent while there is no connection waits in the client, and is counted by its PUBCOMP only.
    if published - len(completed) >= WINDOW:
        time.sleep(0.005)
        continue
    published += 1
    publisher.publish(f"{NAME}/x", str(published), qos=2)
    time.sleep(0.001)

wait("all PUBCOMPs", lambda: len(completed) >= published)
wait(f"{published} messages", lambda: len(received) >= published)
time.sleep(0.5)
twice = sorted({n for n in received if received.count(n) > 1}) if len(received) > published else []
told = f"{published} published, {len(received)} received, twice: {twice[:20]}"
assert sorted(received) == list(range(1, published + 1)), told
replayed = []
reader = client(NAME + "-log", lambda c, *a: c.subscribe(f"$stream/mqtt@earliest/{NAME}/x", qos=1))
reader.on_message = lambda c, u, message: replayed.append(int(message.payload))
connect(reader)
wait("the log", lambda: len(replayed) >= published)
assert received == replayed, next((a, b) for a, b in zip(received, replayed) if a != b)
assert all(connects[1:]), f"the session was lost: {connects}"
print(f"{published} messages, {len(connects)} connections, each message once and in the order of the log")
