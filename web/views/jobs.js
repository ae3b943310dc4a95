// #/ — all jobs, newest first, kept up to date in place: rows move only when a job is added.
import {getMetrics, jobAction, listJobs} from '../api.js';
import {sparkline} from '../chart.js';
import {cancelWanted, duration, failure, h, isFinal, jobName, methodName, number, progressBar, setText, statusMark,
  time} from '../dom.js';

const POLL_MS = 2000, IDLE_MS = 8000;

function emptyState() {
  return h('section', {class: 'panel empty'}, h('h2', null, 'No jobs yet'),
    h('p', null, 'Run ', h('code', null, 'tools/demo'), ' to see a small model learn to point, in minutes and without a GPU. ' +
      'Or start a job of your own:'),
    h('ol', null, h('li', null, 'add a model: ', h('code', null, 'vireo models init --preset tiny --name tiny --data DIR'),
      ' or ',
      h('code', null, 'POST /v1/vireo/models')),
    h('li', null, 'upload rows and images: ', h('code', null, 'POST /v1/vireo/datasets')),
    h('li', null, 'train: ', h('code', null, 'POST /v1/fine_tuning/jobs'))),
    h('p', null, 'Every call is in ', h('a', {href: '/openapi.json'}, '/openapi.json'), '. Jobs appear here by themselves.'));
}

class Row {
  constructor(job, list) {
    this.list = list;
    this.status = h('td', {'data-label': 'Status'});
    this.progress = h('td', {'data-label': 'Step'});
    this.curve = h('td', {'data-label': methodName(job) === 'GRPO' ? 'Reward' : 'Loss', class: 'curve'});
    this.eta = h('td', {'data-label': 'Time left', class: 'number'});
    this.actions = h('td', {class: 'actions'});
    this.name = h('a', {href: `#/jobs/${encodeURIComponent(job.id)}`, class: 'job-name'});
    this.element = h('tr', {'data-job': job.id},
      h('td', {'data-label': 'Job'}, this.name, h('span', {class: 'id'}, job.id)),
      h('td', {'data-label': 'Method'}, methodName(job)),
      h('td', {'data-label': 'Model'}, h('span', {class: 'model'}, job.model)),
      this.status, this.progress, this.curve, this.eta, h('td', {'data-label': 'Created'}, time(job.created_at)),
      this.actions);
    this.shown = '';
    this.step = -1;
  }

  update(job) {
    const key = JSON.stringify([job.status, job.vireo?.step, job.vireo?.total_steps, job.vireo?.eta_s, job.vireo?.pausing,
      job.vireo?.queue_position]);
    setText(this.name, jobName(job));
    if (key === this.shown) return;
    this.shown = key;
    const place = job.status === 'queued' && job.vireo?.queue_position ? ` (${job.vireo.queue_position})` : '';
    this.status.replaceChildren(statusMark(job, place));
    this.progress.replaceChildren(progressBar(job));
    setText(this.eta, job.status === 'running' ? duration(job.vireo?.eta_s) : '–');
    if (isFinal(job.status)) this.actions.replaceChildren();
    else if (!this.actions.firstChild)
      this.actions.append(h('button', {type: 'button', onclick: () => this.cancel(job)}, 'Cancel'));
    this.draw(job);
  }

  async cancel(job) {
    if (!await cancelWanted(job)) return;
    try {
      this.update(await jobAction(job.id, 'cancel'));
    } catch (e) {
      this.list.tell(e);
    }
  }

  async draw(job) {
    const step = job.vireo?.step ?? 0, name = methodName(job) === 'GRPO' ? 'reward' : 'loss';
    if (step === this.step || step === 0) return;
    this.step = step;
    try {
      const columns = await getMetrics(job.id, `names=${name}&points=100`, this.list.signal);
      const values = columns[name] ?? [], svg = sparkline(values, name);
      const last = values.filter((v) => v !== null).at(-1);
      this.curve.replaceChildren(...(svg ? [svg] : []), h('span', {class: 'number'}, number(last, 3)));
    } catch (e) {
      if (e.name !== 'AbortError') this.step = -1; // the next round tries again
    }
  }
}

export function jobsView({main, signal, connection, failed}) {
  const rows = new Map(), body = h('tbody'), told = h('div'), more = h('div', {class: 'buttons'});
  const older = []; // pages behind the first, as loaded; they are not polled
  const columns = ['Job', 'Method', 'Model', 'Status', 'Step', 'Curve', 'Time left', 'Created'];
  const table = h('div', {class: 'panel table-scroll'}, h('table', {class: 'jobs'},
    h('caption', {class: 'hidden'}, 'Fine-tuning jobs'),
    h('thead', null, h('tr', null, columns.map((c) => h('th', {scope: 'col'}, c)),
      h('th', {scope: 'col'}, h('span', {class: 'hidden'}, 'Actions')))), body));
  const place = h('div', {'aria-busy': 'true'}, h('p', {class: 'quiet'}, 'Loading …'));
  const list = {signal, tell: (e) => told.replaceChildren(failure(e))};
  document.title = 'Jobs · Vireo';
  main.append(h('h1', null, 'Jobs'), told, place, more);

  const show = (page) => {
    const jobs = [...page.data, ...older.filter((o) => !page.data.some((j) => j.id === o.id))];
    place.setAttribute('aria-busy', 'false');
    if (!jobs.length) {
      if (!place.querySelector('.empty')) place.replaceChildren(emptyState());
      return;
    }
    if (table.parentNode !== place) place.replaceChildren(table);
    jobs.forEach((job, i) => {
      if (!rows.has(job.id)) rows.set(job.id, new Row(job, list));
      const row = rows.get(job.id);
      row.update(job);
      if (body.children[i] !== row.element) body.insertBefore(row.element, body.children[i] ?? null);
    });
    while (body.children.length > jobs.length) body.lastChild.remove();
    if (page.has_more && !older.length && !more.firstChild) {
      let last = page.last_id;
      more.append(h('button', {type: 'button', onclick: async (event) => {
        const button = event.currentTarget;
        try {
          const next = await listJobs(signal, last);
          last = next.last_id;
          older.push(...next.data);
          if (!next.has_more) button.remove();
          show(page);
        } catch (e) {
          list.tell(e);
        }
      }}, 'Older jobs'));
    }
  };

  let wait = POLL_MS, timer = null;
  const load = async () => {
    clearTimeout(timer);
    try {
      const page = await listJobs(signal);
      show(page);
      connection('live');
      wait = page.data.some((j) => !isFinal(j.status)) ? POLL_MS : IDLE_MS;
    } catch (e) {
      if (signal.aborted) return;
      if (e.status >= 400 && e.status < 500 && e.status !== 429) { failed(e); return; }
      connection('waiting');
      if (!rows.size) place.replaceChildren(failure(e));
      wait = Math.min(wait * 2, 15000);
    }
    if (!signal.aborted && !document.hidden) timer = setTimeout(load, wait);
  };
  document.addEventListener('visibilitychange', () => { if (!document.hidden) load(); }, {signal});
  signal.addEventListener('abort', () => clearTimeout(timer));
  load();
}
