// One measurement of BullMQ, driven by bullmq.py: `node bullmq.mjs FOLDER KIND SPEC`, FOLDER holding node_modules.
// Says "ready", begins at the line "go", answers one line of JSON and waits until its input ends.
import fs from 'node:fs'
import { createRequire } from 'node:module'
import readline from 'node:readline'

const [folder, kind, text] = process.argv.slice(2)
const spec = JSON.parse(text)
const { Queue, Worker } = createRequire(`${folder}/bullmq.mjs`)('bullmq')

const BULK_SIZE = 1000
const WARM_UP = 100
const GAP_MS = 10
const AROUND = '{"i":12345,"text":""}'.length
const READY = -1

const url = new URL(spec.url)
const connection = { host: url.hostname, port: Number(url.port), maxRetriesPerRequest: null }
const jobOptions = { removeOnComplete: true }

const seconds = () => Number(process.hrtime.bigint()) / 1e9 // the system's monotone clock, as Python's
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const fill = 'x'.repeat(Math.max(0, spec.payload_bytes - AROUND))
const payload = (i) => (fill ? { i, text: fill } : { i })
const rssMb = () => Math.round(process.memoryUsage().rss / 1e5) / 10

function serverSeconds() {
  try {
    const fields = fs.readFileSync(`/proc/${spec.server_pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ')
    return (Number(fields[11]) + Number(fields[12])) / 100
  } catch {
    return 0
  }
}

class Span {
  begin() {
    this.began = [seconds(), process.cpuUsage(), serverSeconds()]
  }

  end() {
    const [atS, cpu, serverS] = this.began
    const used = process.cpuUsage(cpu)
    return { seconds: seconds() - atS, cpu_s: (used.user + used.system) / 1e6, server_s: serverSeconds() - serverS }
  }
}

const input = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]()
const say = (line) => process.stdout.write(`${line}\n`)

async function ready() {
  say('ready')
  await input.next()
}

function addBulk(queue, from, to) {
  const jobs = []
  for (let i = from; i < to; i++) jobs.push({ name: 'noop', data: payload(i), opts: jobOptions })
  return queue.addBulk(jobs)
}

async function addAll(queue, n) {
  for (let from = 0; from < n; from += BULK_SIZE) await addBulk(queue, from, Math.min(n, from + BULK_SIZE))
}

async function work(isLatency) {
  const span = new Span()
  const seen = new Uint8Array(Math.max(spec.waiting, spec.n))
  const lateS = []
  let acked = 0
  let isBegun = false
  let found
  let isThere
  const done = new Promise((resolve) => { found = resolve })
  const there = new Promise((resolve) => { isThere = resolve })
  const handler = async (job) => {
    const { i, sent_s: sentS } = job.data
    if (i === READY) return isThere()
    if (sentS !== undefined) lateS.push(seconds() - sentS)
    if (!isBegun) {
      isBegun = true
      span.begin()
    }
    seen[i] = 1
    if (spec.wait_ms_max) await sleep(i % (spec.wait_ms_max + 1))
  }
  const worker = new Worker('bench', handler, { connection, concurrency: spec.concurrency, autorun: false })
  worker.on('error', (error) => say(JSON.stringify({ error: String(error) })))
  worker.on('completed', (job) => {
    if (job.data.i === READY || ++acked !== spec.n) return
    found({ ...span.end(), ran: seen.reduce((sum, one) => sum + one, 0), rss_mb: rssMb(), late_s: lateS })
  })
  await worker.waitUntilReady()
  if (isLatency) {
    worker.run()
    const queue = new Queue('bench', { connection })
    await queue.add('noop', { i: READY }, jobOptions)
    await there
    await ready()
  } else {
    await ready()
    worker.run()
  }
  say(JSON.stringify(await done))
}

async function enqueue(add) {
  const queue = new Queue('bench', { connection })
  await queue.waitUntilReady()
  await add(queue, WARM_UP)
  await ready()
  const span = new Span()
  span.begin()
  await add(queue, spec.n)
  say(JSON.stringify(span.end()))
}

async function addByCallers(queue, n) {
  const callers = n === WARM_UP ? 1 : spec.callers
  const caller = async () => {
    for (let i = 0; i < n / callers; i++) await queue.add('noop', payload(i), jobOptions)
  }
  await Promise.all(Array.from({ length: callers }, caller))
}

async function produce() {
  const queue = new Queue('bench', { connection })
  await queue.waitUntilReady()
  await ready()
  for (let i = 0; i < spec.n; i++) {
    await sleep(GAP_MS)
    await queue.add('noop', { i, sent_s: seconds() }, jobOptions)
  }
  say('{}')
}

async function preload() {
  const queue = new Queue('bench', { connection })
  await queue.waitUntilReady()
  await ready()
  await addAll(queue, spec.n)
  say('{}')
}

const kinds = {
  process: () => work(false),
  latency_between: () => work(true),
  enqueue: () => enqueue(addByCallers),
  bulk: () => enqueue(addAll),
  produce,
  preload,
}
await kinds[kind]()
await input.next()
process.exit(0)
