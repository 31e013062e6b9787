// MQTT.js against Headwater: hundreds of QoS 1 messages in flight on one connection, query results, retained messages.
//
// Arguments: host, port, `4` (MQTT 3.1.1) or `5`. The server has the streams of tests/end_to_end/clients.rs: readings
// published to `plant/{device}/temp` come back as `hot/{device}` when they are above 30.

const assert = require('node:assert')
const mqtt = require('mqtt')

const [host, port, version] = process.argv.slice(2)
const name = `mqttjs-${version}`

async function main() {
  const options = { host, port: Number(port), protocolVersion: Number(version), reconnectPeriod: 0 }
  const subscriber = await mqtt.connectAsync({ ...options, clientId: `${name}-sub` })
  const messages = []
  let wake = () => {}
  subscriber.on('message', (topic, payload, packet) => {
    messages.push({ topic, payload, packet })
    wake()
  })
  const received = async (count) => {
    while (messages.length < count) await new Promise((resolve) => (wake = resolve))
    return messages.splice(0, count)
  }

  const granted = await subscriber.subscribeAsync([`hot/${name}`, `plain/${name}/+`], { qos: 1 })
  assert.deepStrictEqual(granted.map((grant) => grant.qos), [1, 1])

  const publisher = await mqtt.connectAsync({ ...options, clientId: name })
  const all = Array.from({ length: 300 }, (_, n) =>
    publisher.publishAsync(`plant/${name}/temp`, JSON.stringify({ n, temp: n }), { qos: 1 }))
  await Promise.all(all)
  const rows = (await received(269)).map((message) => JSON.parse(message.payload))
  assert.deepStrictEqual(rows.map((row) => row.n), Array.from({ length: 269 }, (_, n) => n + 31))

  await publisher.publishAsync(`plain/${name}/a`, 'räksmörgås', { qos: 0 })
  const [plain] = await received(1)
  assert.strictEqual(plain.payload.toString(), 'räksmörgås')

  await publisher.publishAsync(`plain/${name}/kept`, 'kept', { qos: 1, retain: true })
  await received(1)
  await subscriber.unsubscribeAsync(`plain/${name}/+`)
  await subscriber.subscribeAsync(`plain/${name}/+`, { qos: 1 })
  const [kept] = await received(1)
  assert.strictEqual(kept.packet.retain, true)
  await publisher.publishAsync(`plain/${name}/kept`, '', { qos: 1, retain: true })
  await received(1)

  await publisher.endAsync()
  await subscriber.endAsync()
  console.log(`MQTT.js over protocol version ${version}: ok`)
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
