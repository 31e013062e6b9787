"""paho (Python) over another transport: connects, subscribes, publishes and receives, small and large, with QoS 2.

Arguments: host, the plain port (not used), `tls`, `ws` or `wss`, that transport's port, the certificate (or `-`).
"""

import queue
import ssl
import sys

import paho.mqtt.client as mqtt

HOST, TRANSPORT, PORT, CERTIFICATE = sys.argv[1], sys.argv[3], int(sys.argv[4]), sys.argv[5]
PATIENCE = 90

for protocol in (mqtt.MQTTv311, mqtt.MQTTv5):
    name = f"{TRANSPORT}-{int(protocol)}"
    more = {"transport": "websockets" if TRANSPORT.startswith("ws") else "tcp", "client_id": name, "protocol": protocol}
    if hasattr(mqtt, "CallbackAPIVersion"):
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION1, **more)
    else:
        client = mqtt.Client(**more)
    if CERTIFICATE != "-":
        client.tls_set(ca_certs=CERTIFICATE, cert_reqs=ssl.CERT_REQUIRED)
    events, messages = queue.Queue(), queue.Queue()
    client.on_connect = lambda c, u, flags, code, *a: events.put(code)
    client.on_subscribe = lambda *a: events.put("subscribed")
    client.on_message = lambda c, u, message: messages.put(message)
    client.connect(HOST, PORT, keepalive=30)
    client.loop_start()
    code = events.get(timeout=PATIENCE)
    assert code == 0, f"CONNACK {code}"
    client.subscribe(f"{name}/#", qos=2)
    assert events.get(timeout=PATIENCE) == "subscribed"
    for payload in (b"hi", bytes(range(256)) * 3000, b""):
        info = client.publish(f"{name}/x", payload, qos=2)
        info.wait_for_publish(PATIENCE)
        message = messages.get(timeout=PATIENCE)
        assert (message.topic, message.payload, message.qos) == (f"{name}/x", payload, 2), len(message.payload)
    client.disconnect()
    client.loop_stop()
print(f"paho over {TRANSPORT}: ok")
