// One measurement of graphile-worker, driven by graphile_worker.py; see peers/node.mjs.
import { drive, load, spec } from '../node.mjs'

const { Logger, makeWorkerUtils, run } = (await load('graphile-worker')).default
const { Client } = (await load('pg')).default
const tuned = { localQueue: { size: spec.batch }, completeJobBatchDelay: 0, failJobBatchDelay: 0 }
const logger = new Logger(() => () => {})
const looker = new Client({ connectionString: spec.url })
let utils

await drive({
  async open() {
    await looker.connect()
    utils = await makeWorkerUtils({ connectionString: spec.url, logger })
    await utils.migrate()
  },
  put: (data) => utils.addJob('noop', data),
  putMany: (datas) => utils.addJobs(datas.map((payload) => ({ identifier: 'noop', payload }))),
  async isSettled() {
    const { rows } = await looker.query('select not exists (select from graphile_worker._private_jobs) as yes')
    return rows[0].yes
  },
  async work(handler) {
    const worker = { concurrentJobs: spec.concurrency, ...(spec.batch ? tuned : {}) }
    const runner = await run({
      connectionString: spec.url,
      concurrency: spec.concurrency,
      noHandleSignals: true,
      logger,
      preset: { worker },
      taskList: { noop: handler },
    })
    return () => runner.stop()
  },
})
