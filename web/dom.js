// Building elements, and writing numbers, times and sizes for people. Text of others only ever becomes text nodes.

// h('p', {class: 'x', onclick: f, 'aria-label': 'y'}, 'text', node, null): children that are null or false are left out.
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== 'string') element[name] = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

// Writes only what changed, so that a selection or a focus in the page survives updates.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function number(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return value.toExponential(2).replace('e+', 'e');
  if (Number.isInteger(value)) return String(value);
  return String(Number(value.toPrecision(digits)));
}

export function signed(value, digits = 2) {
  if (!Number.isFinite(value)) return '–';
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text;
  return (value < 0 ? '\u2212' : '+') + text;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return '–';
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, '0')} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, '0')} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// Unix seconds.
export function time(seconds) {
  const date = new Date(seconds * 1000);
  return h('time', {datetime: date.toISOString(), title: date.toLocaleString()},
    date.toDateString() === new Date().toDateString() ? date.toLocaleTimeString() : date.toLocaleString());
}

export function methodName(job) {
  return job.method?.type === 'reinforcement' ? 'GRPO' : 'SFT';
}

const states = {validating_files: 'checking files', queued: 'queued', running: 'running', paused: 'paused',
  succeeded: 'succeeded', failed: 'failed', cancelled: 'cancelled'};

export function isFinal(status) {
  return status === 'succeeded' || status === 'failed' || status === 'cancelled';
}

export function jobName(job) {
  return job.metadata?.name || job.fine_tuned_model || `${methodName(job)} of ${job.model}`;
}

export function statusMark(job, place = '') {
  const text = job.vireo?.pausing ? 'pausing' : states[job.status] ?? job.status;
  return h('span', {class: `status status-${job.status}`}, text + place);
}

export function progressBar(job) {
  const step = job.vireo?.step ?? 0, total = job.vireo?.total_steps ?? null;
  return h('span', {class: 'progress'},
    h('progress', {max: total || 1, value: total ? step : 0, 'aria-label': 'Progress'}),
    h('span', {class: 'progress-text'}, total ? `${step} / ${total}` : 'not started'));
}

export function failure(error) {
  return h('p', {class: 'notice error', role: 'alert'}, error.message);
}

// A question before something that cannot be taken back. Resolves to true or false.
function confirmed(title, text, action) {
  return new Promise((resolve) => {
    const close = (answer) => { dialog.close(); dialog.remove(); resolve(answer); };
    const dialog = h('dialog', {'aria-labelledby': 'dialog-title', oncancel: (e) => { e.preventDefault(); close(false); }},
      h('h2', {id: 'dialog-title'}, title), h('p', null, text),
      h('div', {class: 'buttons'}, h('button', {type: 'button', autofocus: true, onclick: () => close(false)}, 'Go back'),
        h('button', {type: 'button', class: 'danger', onclick: () => close(true)}, action)));
    document.body.append(dialog);
    dialog.showModal();
  });
}

export function cancelWanted(job) {
  return confirmed('Cancel this job?', `“${jobName(job)}” stops after the step it is in. Its checkpoints stay.`,
    'Cancel the job');
}
