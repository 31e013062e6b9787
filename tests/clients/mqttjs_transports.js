// MQTT.js over WebSocket, plain or secure: hundreds of messages in flight, both ways at once.
//
// Arguments: host, the plain port (not used), the URL, the certificate (or `-`).

const assert = require('node:assert')
const fs = require('node:fs')
const mqtt = require('mqtt')

const [, , url, certificate] = process.argv.slice(2)

async function main() {
  for (const protocolVersion of [4, 5]) {
    const options = { protocolVersion, reconnectPeriod: 0, clientId: `js-${protocolVersion}` }
    if (certificate !== '-') options.ca = fs.readFileSync(certificate)
    const client = await mqtt.connectAsync(url, options)
    const received = []
    let wake = () => {}
    client.on('message', (topic, payload) => {
      received.push(Number(payload.toString()))
      wake()
    })
    await client.subscribeAsync(`js/${protocolVersion}`, { qos: 1 })
    const numbers = Array.from({ length: 300 }, (_, n) => n)
    await Promise.all(numbers.map((n) => client.publishAsync(`js/${protocolVersion}`, String(n), { qos: 1 })))
    while (received.length < 300) await new Promise((resolve) => (wake = resolve))
    assert.deepStrictEqual(received, numbers)
    await client.endAsync()
  }
  console.log(`MQTT.js over ${url}: ok`)
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
