// The public API: requests, errors, event streams. A key, where the server wants one, is traded once for a cookie that
// scripts cannot read (POST /v1/vireo/session); images and streams then carry it too.

export class ApiError extends Error {
  constructor(status, message, code, param) {
    super(message);
    Object.assign(this, {status, code, param});
  }
}

async function errorOf(response) {
  let body = null;
  try { body = (await response.json()).error; } catch { /* not the API's shape: the status says it */ }
  return new ApiError(response.status, body?.message ?? `The server answered ${response.status}.`, body?.code ?? null,
    body?.param ?? null);
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, {credentials: 'same-origin', ...options});
  } catch (e) {
    if (e.name === 'AbortError') throw e;
    throw new ApiError(0, 'The server does not answer.', 'unreachable', null);
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

export async function get(path, signal) {
  return (await send(path, {signal, headers: {Accept: 'application/json'}})).json();
}

export async function post(path, body) {
  const options = {method: 'POST', headers: {Accept: 'application/json', 'Content-Type': 'application/json'}};
  if (body !== undefined) options.body = JSON.stringify(body);
  return (await send(path, options)).json();
}

const segment = encodeURIComponent;
export const listJobs = (signal, after) =>
  get(`/v1/fine_tuning/jobs?limit=50${after ? `&after=${segment(after)}` : ''}`, signal);
export const getJob = (id, signal) => get(`/v1/fine_tuning/jobs/${segment(id)}`, signal);
export const jobAction = (id, action) => post(`/v1/fine_tuning/jobs/${segment(id)}/${action}`);
export const getMetrics = (id, query, signal) => get(`/v1/vireo/jobs/${segment(id)}/metrics?${query}`, signal);
export const getGroups = (id, step, signal) =>
  get(`/v1/vireo/jobs/${segment(id)}/groups?step=${step}&limit=100`, signal);
export const imageUrl = (id) => `/v1/vireo/images/${segment(id)}/content`;
export const openSession = (key) => post('/v1/vireo/session', {key});

// Splits the text of an event stream into {id, event, data}. Feed it chunks; it calls back once an event is whole.
export function eventParser(emit) {
  let rest = '', event = {id: null, event: 'message', data: []};
  const line = (text) => {
    if (text === '') {
      if (event.data.length) emit({...event, data: event.data.join('\n')});
      event = {id: event.id, event: 'message', data: []};
      return;
    }
    const colon = text.indexOf(':'), name = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? '' : text.slice(colon + 1).replace(/^ /, '');
    if (name === 'data') event.data.push(value);
    else if (name === 'id') event.id = value;
    else if (name === 'event') event.event = value;
  };
  return (chunk) => {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop();
    for (const l of lines) line(l.endsWith('\r') ? l.slice(0, -1) : l);
  };
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => { clearTimeout(timer); resolve(); }, {once: true});
  });
}

// Follows a job's events from the first one on, through lost connections, without loss or repetition: it asks for what
// came after the last id. `handle` gets each event's object and kind; `state` gets 'live', 'waiting' or 'ended'.
// `over()` says whether the job is finished: then the end of the stream is the end.
export async function followEvents(id, signal, handle, state, over) {
  let after = 0, wait = 500;
  while (!signal.aborted) {
    try {
      const response = await send(`/v1/fine_tuning/jobs/${segment(id)}/events/stream?after=${after}`,
        {signal, headers: {Accept: 'text/event-stream'}});
      state('live');
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      const feed = eventParser((e) => {
        if (e.id !== null) after = Number(e.id);
        wait = 500;
        handle(JSON.parse(e.data), e.event);
      });
      for (;;) {
        const {done, value} = await reader.read();
        if (done) break;
        feed(value);
      }
      if (await over()) { state('ended'); return; }
    } catch (e) {
      if (signal.aborted) return;
      if (e.status >= 400 && e.status < 500 && e.status !== 408 && e.status !== 429) throw e;
    }
    state('waiting');
    await pause(wait * (0.75 + Math.random() / 2), signal);
    wait = Math.min(wait * 2, 15000);
  }
}
