// One measurement of BullMQ, driven by bullmq.py; see peers/node.mjs.
import { drive, fail, load, spec } from '../node.mjs'

const { Queue, Worker } = await load('bullmq')
const url = new URL(spec.url)
const connection = { host: url.hostname, port: Number(url.port), maxRetriesPerRequest: null }
const opts = { removeOnComplete: true }
let queue

await drive({
  async open() {
    queue = new Queue('bench', { connection })
    await queue.waitUntilReady()
  },
  put: (data) => queue.add('noop', data, opts),
  putMany: (datas) => queue.addBulk(datas.map((data) => ({ name: 'noop', data, opts }))),
  async work(handler, acked) {
    const run = (job) => handler(job.data)
    const worker = new Worker('bench', run, { connection, concurrency: spec.concurrency, autorun: false })
    worker.on('error', fail)
    worker.on('completed', (job) => acked(job.data.i))
    await worker.waitUntilReady()
    worker.run()
    return () => worker.close()
  },
})
