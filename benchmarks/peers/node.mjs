// What measurements of node's queues have in common: `node PEER.mjs FOLDER KIND SPEC`, FOLDER holding node_modules.
// Says "ready", begins at the line "go", answers one line of JSON and waits until its input ends. Driven by node.py.
import fs from 'node:fs'
import { createRequire } from 'node:module'
import readline from 'node:readline'
import { pathToFileURL } from 'node:url'

const [folder, kind, text] = process.argv.slice(2)
export const spec = JSON.parse(text)
const require = createRequire(`${folder}/peer.mjs`)

export const BULK_SIZE = 1000
const WARM_UP = 100
const GAP_MS = 10
const POLL_MS = 5
const AROUND = '{"i":12345,"text":""}'.length
const READY = -1

export const load = (name) => import(pathToFileURL(require.resolve(name)).href)
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const seconds = () => Number(process.hrtime.bigint()) / 1e9 // the system's monotone clock, as Python's
const say = (line) => process.stdout.write(`${line}\n`)
export const fail = (error) => say(JSON.stringify({ error: String(error) }))
const fill = 'x'.repeat(Math.max(0, spec.payload_bytes - AROUND))
const payload = (i) => (fill ? { i, text: fill } : { i })
const rssMb = () => Math.round(process.memoryUsage().rss / 1e5) / 10

function ticksOf(pid) {
  try {
    const fields = fs.readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ')
    return fields.slice(11, 15).reduce((sum, one) => sum + Number(one), 0)
  } catch {
    return 0
  }
}

// As cpu_s_of in machine.py: with its children.
function serverSeconds() {
  const pid = spec.server_pid
  let children = ''
  try {
    children = fs.readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
  } catch {}
  return [String(pid), ...children.split(' ').filter(Boolean)].reduce((sum, one) => sum + ticksOf(one), 0) / 100
}

class Span {
  begin() {
    const server = serverSeconds()
    this.began = [seconds(), process.cpuUsage(), server]
  }

  end() {
    const [atS, cpu, serverS] = this.began
    const used = process.cpuUsage(cpu)
    return { seconds: seconds() - atS, cpu_s: (used.user + used.system) / 1e6, server_s: serverSeconds() - serverS }
  }
}

const input = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]()

async function ready() {
  say('ready')
  await input.next()
}

// `queue` has open(), put(data), putMany(datas) and work(handler, acked), which gives a function that stops the worker.
// A queue that tells of each job that it noted as done calls acked(i); one that does not has isSettled(), which looks
// into its tables: nothing is left there to be done.
export async function drive(queue) {
  const seen = new Uint8Array(Math.max(spec.waiting, spec.n))
  const countRan = () => seen.reduce((sum, one) => sum + one, 0)

  async function addAll(from, to) {
    for (let at = from; at < to; at += BULK_SIZE) {
      const size = Math.min(BULK_SIZE, to - at)
      await queue.putMany(Array.from({ length: size }, (_, offset) => payload(at + offset)))
    }
  }

  async function settled() {
    while (!(await queue.isSettled())) await sleep(POLL_MS)
  }

  async function work(isLatency) {
    const span = new Span()
    const lateS = []
    let isBegun = false
    let [ran, acked] = [0, 0]
    let found
    let isThere
    const done = new Promise((resolve) => { found = resolve })
    const there = new Promise((resolve) => { isThere = resolve })
    const finish = () => found({ ...span.end(), ran: countRan(), rss_mb: rssMb(), late_s: lateS })
    const handler = async ({ i, sent_s: sentS }) => {
      if (i === READY) return isThere()
      if (sentS !== undefined) lateS.push(seconds() - sentS)
      if (!isBegun) {
        isBegun = true
        span.begin()
      }
      seen[i] = 1
      if (spec.wait_ms_max) await sleep(i % (spec.wait_ms_max + 1))
      if (++ran !== spec.n || !queue.isSettled) return
      if (isLatency) finish()
      else settled().then(finish, fail)
    }
    const ack = (i) => {
      if (i !== READY && ++acked === spec.n) finish()
    }
    await queue.open()
    if (isLatency) {
      await queue.work(handler, ack)
      await queue.put({ i: READY })
      await there
      await ready()
    } else {
      await ready()
      await queue.work(handler, ack)
    }
    say(JSON.stringify(await done))
  }

  async function enqueue(add) {
    await queue.open()
    await add(WARM_UP, 1)
    await ready()
    const span = new Span()
    span.begin()
    await add(spec.n, spec.callers)
    say(JSON.stringify(span.end()))
  }

  async function addByCallers(n, callers) {
    const caller = async () => {
      for (let i = 0; i < n / callers; i++) await queue.put(payload(i))
    }
    await Promise.all(Array.from({ length: callers }, caller))
  }

  async function simple(send) {
    await queue.open()
    await ready()
    await send()
    say('{}')
  }

  async function produce() {
    for (let i = 0; i < spec.n; i++) {
      await sleep(GAP_MS)
      await queue.put({ i, sent_s: seconds() })
    }
  }

  // Rounds of enqueueing all of one, then working it off.
  async function churn() {
    await queue.open()
    await ready()
    const [size, rates, startedS] = [spec.n / spec.rounds, [], seconds()]
    while (rates.length < spec.rounds && !(spec.limit_s && seconds() - startedS > spec.limit_s)) {
      await addAll(rates.length * size, (rates.length + 1) * size)
      let ran = 0
      let beganS = 0
      let found
      const done = new Promise((resolve) => { found = resolve })
      const stop = await queue.work(async ({ i }) => {
        beganS ||= seconds()
        seen[i] = 1
        if (++ran === size) found()
      })
      await done
      await settled()
      rates.push(size / (seconds() - beganS))
      await stop()
    }
    say(JSON.stringify({ rates, ran: countRan(), size }))
  }

  const kinds = {
    process: () => work(false),
    latency_between: () => work(true),
    enqueue: () => enqueue(addByCallers),
    bulk: () => enqueue((n) => addAll(0, n)),
    produce: () => simple(produce),
    preload: () => simple(() => addAll(0, spec.n)),
    churn,
  }
  await kinds[kind]()
  await input.next()
  process.exit(0)
}
