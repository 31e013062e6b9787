// MQTT.js against Headwater: SCRAM-SHA-256 (MQTT 5 enhanced authentication), with Node's own HMAC and PBKDF2.
//
// Arguments: host, port, user, password. Says what became of it: `ok`, or the reason code.

const assert = require('node:assert')
const crypto = require('node:crypto')
const mqtt = require('mqtt')

const [host, port, user, password] = process.argv.slice(2)
const authenticationMethod = 'SCRAM-SHA-256'
const hmac = (key, text) => crypto.createHmac('sha256', key).update(text).digest()

// The client's side of RFC 5802: first() and last(challenge), then signature is what the server has to answer.
class Scram {
  constructor() {
    this.bare = `n=${user.replaceAll('=', '=3D').replaceAll(',', '=2C')},r=${crypto.randomBytes(18).toString('base64')}`
  }

  first() {
    return Buffer.from(`n,,${this.bare}`)
  }

  last(challenge) {
    const [r, s, i] = challenge.toString().split(',').map((part) => part.slice(2))
    assert.ok(r.startsWith(this.bare.split(',r=')[1]), 'the nonce goes on from ours')
    const salted = crypto.pbkdf2Sync(password, Buffer.from(s, 'base64'), Number(i), 32, 'sha256')
    const clientKey = hmac(salted, 'Client Key')
    const withoutProof = `c=biws,r=${r}`
    const messages = `${this.bare},${challenge},${withoutProof}`
    const signature = hmac(crypto.createHash('sha256').update(clientKey).digest(), messages)
    const proof = Buffer.from(clientKey.map((byte, at) => byte ^ signature[at]))
    this.signature = `v=${hmac(hmac(salted, 'Server Key'), messages).toString('base64')}`
    return Buffer.from(`${withoutProof},p=${proof.toString('base64')}`)
  }
}

async function main() {
  let scram = new Scram()
  const client = mqtt.connect({
    host,
    port: Number(port),
    protocolVersion: 5,
    reconnectPeriod: 0,
    clientId: 'js-scram',
    properties: { authenticationMethod, authenticationData: scram.first() },
  })
  let wake
  const finished = () => new Promise((resolve) => (wake = resolve))
  client.handleAuth = (packet, callback) => {
    const data = packet.properties.authenticationData
    if (packet.reasonCode === 0) {
      wake(data.toString())
      return callback()
    }
    const properties = { authenticationMethod, authenticationData: scram.last(data) }
    callback(null, { cmd: 'auth', reasonCode: 0x18, properties })
  }
  const connack = await new Promise((resolve, reject) => {
    client.once('connect', resolve)
    client.once('error', reject)
  })
  assert.strictEqual(connack.properties.authenticationMethod, authenticationMethod)
  assert.strictEqual(connack.properties.authenticationData.toString(), scram.signature, 'the server knows the verifier')

  await client.publishAsync('scram/js', 'let in', { qos: 1 })

  // Again, on the same connection.
  scram = new Scram()
  const again = finished()
  const properties = { authenticationMethod, authenticationData: scram.first() }
  client._sendPacket({ cmd: 'auth', reasonCode: 0x19, properties })
  assert.strictEqual(await again, scram.signature)
  await client.publishAsync('scram/js', 'still in', { qos: 1 })
  await client.endAsync()
  console.log('ok')
}

main().catch((error) => {
  console.log(`refused with ${error.code}`)
  process.exit(error.code === undefined ? 1 : 0)
})
