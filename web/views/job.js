// #/jobs/<id> — one job: where it stands, its curves, its completions, events and resolved settings, all live.
import {followEvents, getJob, getMetrics, jobAction} from '../api.js';
import {Chart} from '../chart.js';
import {cancelWanted, duration, failure, h, isFinal, jobName, methodName, number, progressBar, setText, statusMark,
  time} from '../dom.js';
import {Rollouts} from './rollouts.js';

const POINTS = 2000, EVENTS_SHOWN = 200, REFRESH_MS = 3000;

// [title, [name, label], …]; a chart appears with the first of its columns, "*" stands for every grader. A label that
// begins with "•" is measured now and then.
const charts = [
  ['Reward', ['reward', 'training'], ['eval_reward', '• held out']],
  ['Rewards by grader', ['rewards/*/mean', '*'], ['eval_rewards/*/mean', '• * held out']],
  ['Loss', ['loss', 'training'], ['eval_loss', '• held out']],
  ['Token accuracy', ['mean_token_accuracy', 'training'], ['eval_mean_token_accuracy', '• held out']],
  ['KL to the reference', ['kl', 'KL']],
  ['Entropy', ['entropy', 'entropy']],
  ['Completion length, tokens', ['completions/mean_length', 'mean'], ['eval_completions/mean_length', '• held out']],
  ['Cut at the length limit', ['completions/clipped_ratio', 'share']],
  ['Groups without spread', ['frac_reward_zero_std', 'share']],
  ['Unreadable answers', ['grader/sample_parse_error_mean', 'training'], ['eval_parse_error', '• held out']],
  ['Gradient norm', ['grad_norm', 'norm']],
  ['Learning rate', ['learning_rate', 'rate']],
  ['Rollout against training, log-prob difference', ['sampling/sampling_logp_difference/max', 'largest']],
  ['Seconds a step', ['step_time', 'seconds']],
];

function seriesOf(parts, names) {
  return parts.flatMap(([name, label]) => {
    const [head, tail] = name.split('*'), points = label.startsWith('•');
    const text = label.replace('• ', '');
    if (tail === undefined) return names.includes(name) ? [{name, label: text, points}] : [];
    return names.filter((n) => n.startsWith(head) && n.endsWith(tail)).map((n) =>
      ({name: n, label: text.replace('*', n.slice(head.length, n.length - tail.length)), points}));
  });
}

// The columns of a job and the charts over them.
class Curves {
  constructor(signal) {
    this.columns = {step: []};
    this.charts = new Map();
    this.grid = h('div', {class: 'charts'});
    this.empty = h('p', {class: 'quiet'}, 'No curves yet: they begin with the first step.');
    this.element = h('section', {class: 'curves', 'aria-labelledby': 'curves-title'},
      h('h2', {id: 'curves-title'}, 'Curves'), this.empty, this.grid);
    signal.addEventListener('abort', () => {
      cancelAnimationFrame(this.frame);
      for (const c of this.charts.values()) c.destroy();
    });
  }

  set(columns) {
    this.columns = columns;
    this.draw();
  }

  // A step's values; a repeated step (after a resume) is the same and counts once.
  add(step, values) {
    const {columns} = this, count = columns.step.length;
    if (count && step <= columns.step[count - 1]) return;
    columns.step.push(step);
    for (const [name, value] of Object.entries(values)) {
      if (name === 'step' || (value !== null && typeof value !== 'number')) continue;
      columns[name] ??= new Array(count).fill(null);
      columns[name].push(value);
    }
    for (const column of Object.values(columns)) if (column.length === count) column.push(null);
    this.frame ??= requestAnimationFrame(() => { this.frame = null; this.draw(); });
  }

  draw() {
    const names = Object.keys(this.columns).filter((n) => this.columns[n].some((v) => v !== null));
    this.empty.hidden = this.columns.step.length > 0;
    let before = null;
    for (const [title, ...parts] of charts) {
      const series = seriesOf(parts, names), old = this.charts.get(title);
      if (!series.length) continue;
      let chart = old;
      if (!old || old.series.map((s) => s.name).join() !== series.map((s) => s.name).join()) {
        chart = new Chart(title, series);
        this.charts.set(title, chart);
        if (old) {
          old.element.replaceWith(chart.element);
          old.destroy();
        } else if (before) before.element.after(chart.element);
        else this.grid.prepend(chart.element);
      }
      chart.set(this.columns);
      before = chart;
    }
  }
}

class Events {
  constructor() {
    this.list = h('ol', {class: 'events'});
    this.empty = h('p', {class: 'quiet'}, 'No events yet.');
    this.element = h('section', {class: 'panel', 'aria-labelledby': 'events-title'}, h('h2', {id: 'events-title'}, 'Events'),
      this.empty, this.list);
  }

  add(event) {
    this.empty.hidden = true;
    this.list.prepend(h('li', {class: `event event-${event.level}`}, time(event.created_at),
      event.level === 'info' ? null : h('strong', null, event.level === 'warn' ? 'warning' : 'error'),
      h('span', null, event.message)));
    if (this.list.children.length > EVENTS_SHOWN) this.list.lastChild.remove();
  }
}

const moving = new Set(['step', 'total_steps', 'epoch', 'queue_position', 'eta_s', 'paused_at', 'pausing', 'checkpoint_step',
  'alerts', 'plan', 'started_at', 'attempts', 'resumed', 'best_step', 'facts']);

function plain(value) {
  if (value === null || value === undefined) return '–';
  if (typeof value === 'number' && !Number.isInteger(value)) return number(value, 6);
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

function pairs(object) {
  return h('dl', {class: 'pairs'}, Object.entries(object).map(([name, value]) => h('div', null, h('dt', null, name),
    h('dd', null, plain(value)))));
}

function settings(job) {
  const own = Object.fromEntries(Object.entries(job.vireo ?? {}).filter(([name]) => !moving.has(name)));
  const grader = job.method?.reinforcement?.grader;
  return h('section', {class: 'panel', 'aria-labelledby': 'settings-title'}, h('h2', {id: 'settings-title'}, 'Settings'),
    pairs({model: job.model, training_file: job.training_file, validation_file: job.validation_file, seed: job.seed,
      ...job.hyperparameters, ...own}),
    job.vireo?.plan ? h('details', null, h('summary', null, 'Memory plan, bytes'), pairs(job.vireo.plan)) : null,
    job.vireo?.facts ? h('details', null, h('summary', null, 'What the worker reported'), pairs(job.vireo.facts)) : null,
    grader ? h('details', null, h('summary', null, 'Grader'),
      h('pre', {class: 'text'}, JSON.stringify(grader, null, 2))) : null,
    job.metadata && Object.keys(job.metadata).length ? h('details', null, h('summary', null, 'Metadata'),
      pairs(job.metadata)) : null);
}

class Header {
  constructor(tell, changed) {
    this.tell = tell;
    this.changed = changed;
    this.title = h('h1');
    this.status = h('span');
    this.progress = h('div', {class: 'wide-progress'});
    this.facts = h('p', {class: 'facts'});
    this.buttons = h('div', {class: 'buttons'});
    this.error = h('div');
    this.element = h('header', {class: 'panel job-head'}, h('p', {class: 'back'}, h('a', {href: '#/'}, '‹ All jobs')),
      h('div', {class: 'job-title'}, this.title, this.status, this.buttons), this.progress, this.facts, this.error);
  }

  async act(action) {
    if (action === 'cancel' && !await cancelWanted(this.job)) return;
    try {
      this.changed(await jobAction(this.job.id, action));
    } catch (e) {
      this.tell(e);
    }
  }

  update(job) {
    this.job = job;
    const name = jobName(job);
    const v = job.vireo ?? {}, facts = [job.id, `${methodName(job)} of ${job.model}`];
    setText(this.title, name);
    document.title = `${name} · Vireo`;
    const key = `${job.status} ${v.pausing}`;
    if (key !== this.key) {
      this.key = key;
      this.status.replaceChildren(statusMark(job));
      const actions = isFinal(job.status) ? [] : [job.status === 'paused' ? ['resume', 'Resume'] :
        job.status === 'validating_files' || v.pausing ? null : ['pause', 'Pause'], ['cancel', 'Cancel']];
      this.buttons.replaceChildren(...actions.filter(Boolean).map(([action, text]) =>
        h('button', {type: 'button', onclick: () => this.act(action)}, text)));
      this.error.replaceChildren(...(job.error ? [failure({message: job.error.message})] : []));
    }
    const bar = progressBar(job);
    if (this.progress.textContent !== bar.textContent) this.progress.replaceChildren(bar);
    if (job.status === 'running') facts.push(v.eta_s === null || v.eta_s === undefined ? 'time left not known yet' :
      `${duration(v.eta_s)} left`);
    if (job.status === 'queued' && v.queue_position) facts.push(`place ${v.queue_position} in the queue`);
    if (v.epoch) facts.push(`epoch ${number(v.epoch, 3)}`);
    if (v.device) facts.push(v.device);
    if (job.trained_tokens) facts.push(`${job.trained_tokens.toLocaleString()} tokens`);
    if (isFinal(job.status) && v.started_at && job.finished_at)
      facts.push(`took ${duration(job.finished_at - v.started_at)}`);
    setText(this.facts, facts.join(' · '));
  }
}

export async function jobView({main, signal, connection, failed}, id) {
  let job, refreshed = 0, timer = null, config;
  const told = h('div'), curves = new Curves(signal), events = new Events();
  const tell = (e) => told.replaceChildren(failure(e));
  const update = (next) => {
    if (signal.aborted) return;
    const had = JSON.stringify(job?.vireo?.facts ?? null);
    job = next;
    header.update(job);
    if (config && JSON.stringify(job.vireo?.facts ?? null) !== had) {
      const fresh = settings(job);
      config.replaceWith(fresh);
      config = fresh;
    }
  };
  const header = new Header(tell, update);
  // The estimate and the status come with the job itself: asked for at most every few seconds, however fast steps are.
  const refresh = (now) => {
    if (timer && !now) return;
    clearTimeout(timer);
    timer = setTimeout(async () => {
      timer = null;
      refreshed = Date.now();
      try { update(await getJob(id, signal)); } catch { /* the stream tells whether the server is there */ }
    }, now ? 0 : Math.max(0, refreshed + REFRESH_MS - Date.now()));
  };
  signal.addEventListener('abort', () => clearTimeout(timer));

  try {
    const [first, columns] = await Promise.all([getJob(id, signal), getMetrics(id, `points=${POINTS}`, signal)]);
    const rollouts = methodName(first) === 'GRPO' ? new Rollouts(first, signal) : null;
    refreshed = Date.now();
    update(first);
    config = settings(first);
    main.append(header.element, told, curves.element, ...(rollouts ? [rollouts.element] : []), events.element, config);
    curves.set(columns);
    const known = columns.step.at(-1) ?? 0;
    if (known) rollouts?.reached(known);
    const handle = (event, kind) => {
      if (kind !== 'metrics') {
        events.add(event);
        if (kind === 'status' || kind === 'message') refresh(kind === 'status');
        return;
      }
      const step = event.data?.step;
      if (!Number.isInteger(step) || step <= known) return;
      curves.add(step, event.data.vireo ?? {});
      if (step > (job.vireo?.step ?? 0)) update({...job, vireo: {...job.vireo, step, total_steps: event.data.total_steps}});
      rollouts?.reached(step);
      refresh(false);
    };
    await followEvents(id, signal, handle, connection, async () => {
      update(await getJob(id, signal));
      return isFinal(job.status);
    });
  } catch (e) {
    failed(e);
  }
}
