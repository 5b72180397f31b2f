// One measurement of pg-boss, driven by pg_boss.py; see peers/node.mjs.
import { drive, fail, load, spec } from '../node.mjs'

const { PgBoss } = await load('pg-boss')
const { Client } = (await load('pg')).default
const looker = new Client({ connectionString: spec.url })
const isLatency = ['latency_between', 'produce'].includes(spec.kind)
const boss = new PgBoss({ connectionString: spec.url, schedule: false, useListenNotify: isLatency })
const batch = spec.batch ? { batchSize: spec.batch, burstWhenBatchFull: true } : { localConcurrency: spec.concurrency }

await drive({
  async open() {
    await looker.connect()
    boss.on('error', fail)
    await boss.start()
    if (!(await boss.getQueue('bench'))) await boss.createQueue('bench', isLatency ? { notify: true } : {})
  },
  put: (data) => boss.send('bench', data),
  putMany: (datas) => boss.insert('bench', datas.map((data) => ({ data }))),
  async isSettled() {
    const { rows } = await looker.query("select not exists (select from pgboss.job where state < 'completed') as yes")
    return rows[0].yes
  },
  async work(handler) {
    const options = { pollingIntervalSeconds: 0.5, ...batch }
    const id = await boss.work('bench', options, (jobs) => Promise.all(jobs.map((job) => handler(job.data))))
    return () => boss.offWork('bench', { id, wait: true })
  },
})
