// MQTT.js against Headwater: QoS 2, a session that stays, a share, takeover, a will, and in MQTT 5 what travels with a message.
//
// Arguments: host, port, `4` (MQTT 3.1.1) or `5`.

const assert = require('node:assert')
const mqtt = require('mqtt')

const [host, port, version] = process.argv.slice(2)
const name = `jsfeatures-${version}`
const five = version === '5'
const base = { host, port: Number(port), protocolVersion: Number(version), reconnectPeriod: 0, keepalive: 0 }

async function open(clientId, more = {}) {
  const client = mqtt.connect({ ...base, clientId, ...more })
  client.received = []
  client.wake = () => {}
  client.on('message', (topic, payload, packet) => {
    client.received.push({ topic, payload: payload.toString(), packet })
    client.wake()
  })
  client.connack = await new Promise((resolve, reject) => {
    client.once('connect', resolve)
    client.once('error', reject)
  })
  return client
}

async function receive(client, count) {
  while (client.received.length < count) await new Promise((resolve) => (client.wake = resolve))
  return client.received.splice(0, count)
}

async function main() {
  const publisher = await open(name)
  const stay = five ? { clean: false, properties: { sessionExpiryInterval: 600 } } : { clean: false }

  // QoS 2 both ways, and what came while the client was away.
  let device = await open(`${name}-device`, stay)
  assert.strictEqual(device.connack.sessionPresent, false)
  await device.subscribeAsync(`${name}/two`, { qos: 2 })
  await device.endAsync()
  const numbers = Array.from({ length: 100 }, (_, n) => String(n))
  for (const n of numbers) await publisher.publishAsync(`${name}/two`, n, { qos: 2 })
  device = await open(`${name}-device`, stay)
  assert.strictEqual(device.connack.sessionPresent, true)
  const messages = await receive(device, 100)
  assert.deepStrictEqual(messages.map((message) => message.payload), numbers)
  assert.ok(messages.every((message) => message.packet.qos === 2))

  // Another connection with the client id ends this one.
  const ended = new Promise((resolve) => device.once('close', resolve))
  const successor = await open(`${name}-device`, stay)
  await ended
  assert.strictEqual(successor.connack.sessionPresent, true)
  await successor.endAsync()

  // A share: each message to one of its members.
  const members = await Promise.all([1, 2].map((n) => open(`${name}-member-${n}`)))
  for (const member of members) await member.subscribeAsync(`$share/${name}/${name}/jobs`, { qos: 1 })
  for (const n of numbers) await publisher.publishAsync(`${name}/jobs`, n, { qos: 1 })
  const done = () => members.flatMap((member) => member.received)
  while (done().length < 100) await new Promise((resolve) => members.forEach((member) => (member.wake = resolve)))
  assert.deepStrictEqual(done().map((message) => Number(message.payload)).sort((a, b) => a - b), numbers.map(Number))
  for (const member of members) await member.endAsync()

  // A will, retained.
  const will = { topic: `${name}/will`, payload: 'gone', qos: 1, retain: true }
  const doomed = await open(`${name}-doomed`, { will })
  await publisher.subscribeAsync(`${name}/will`, { qos: 1 })
  doomed.stream.destroy()
  assert.strictEqual((await receive(publisher, 1))[0].payload, 'gone')
  await publisher.unsubscribeAsync(`${name}/will`)
  await publisher.subscribeAsync(`${name}/will`, { qos: 1 })
  assert.strictEqual((await receive(publisher, 1))[0].packet.retain, true)

  if (five) {
    const properties = {
      payloadFormatIndicator: true,
      messageExpiryInterval: 3600,
      contentType: 'text/plain',
      responseTopic: `${name}/answers`,
      correlationData: Buffer.from([0, 255]),
      userProperties: { a: ['1', '2'], b: '3' },
    }
    const reader = await open(`${name}-reader`, { properties: { topicAliasMaximum: 4, receiveMaximum: 2 } })
    await reader.subscribeAsync(`${name}/props`, { qos: 1, rap: true, properties: { subscriptionIdentifier: 77 } })
    for (const n of ['1', '2', '3', '4']) await publisher.publishAsync(`${name}/props`, n, { qos: 1, properties })
    for (const [at, message] of (await receive(reader, 4)).entries()) {
      const got = message.packet.properties
      assert.deepStrictEqual([message.topic, message.payload], [`${name}/props`, String(at + 1)])
      assert.deepStrictEqual({ ...got.userProperties }, properties.userProperties)
      assert.deepStrictEqual([got.contentType, got.responseTopic], ['text/plain', `${name}/answers`])
      assert.deepStrictEqual([...got.correlationData], [0, 255])
      assert.strictEqual(got.subscriptionIdentifier, 77)
    }
    await reader.endAsync()
  }
  await publisher.endAsync()
  console.log(`MQTT.js's features over protocol version ${version}: ok`)
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
