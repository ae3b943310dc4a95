// The page: which view is shown, the key where one is needed, and the mark that says whether data still flows.
import {openSession} from './api.js';
import {failure, h, setText} from './dom.js';
import {jobView} from './views/job.js';
import {jobsView} from './views/jobs.js';

const main = document.getElementById('main');
const badge = document.getElementById('connection');
let current = null;

const words = {live: 'live', waiting: 'reconnecting …', ended: '', none: ''};

function connection(state) {
  badge.dataset.state = state;
  setText(badge, words[state] ?? '');
}

function askForKey(again) {
  const input = h('input', {type: 'password', id: 'key', autocomplete: 'off', spellcheck: 'false', required: true,
    placeholder: 'sk-vireo-…'});
  const told = h('div', {role: 'alert'});
  const enter = async (event) => {
    event.preventDefault();
    try {
      await openSession(input.value.trim());
      again();
    } catch (e) {
      told.replaceChildren(failure(e));
    }
  };
  main.replaceChildren(h('section', {class: 'panel narrow'}, h('h1', null, 'This server wants a key'),
    h('p', null, 'Make one on the machine it runs on: ', h('code', null, 'vireo keys create --data DIR --name me'),
    '. This browser keeps it as a session that scripts cannot read.'),
    h('form', {onsubmit: enter}, h('label', {for: 'key'}, 'Key'), input, h('button', {class: 'primary'}, 'Enter')), told));
  input.focus();
}

// A view fills the element it gets and calls `context.failed` when it cannot go on.
function open() {
  current?.abort();
  current = new AbortController();
  const {signal} = current, path = decodeURIComponent(location.hash.slice(1)) || '/';
  const context = {main, signal, connection, failed(e) {
    if (signal.aborted || e.name === 'AbortError') return;
    if (e.status === 401) askForKey(open);
    else main.replaceChildren(h('section', {class: 'panel narrow'}, h('h1', null, e.status === 404 ? 'Not found' :
      'This did not work'), failure(e), h('p', null, h('a', {href: '#/'}, 'All jobs'), ' · ',
      h('button', {type: 'button', onclick: open}, 'Try again'))));
  }};
  const job = /^\/jobs\/([^/]+)$/.exec(path);
  connection('none');
  document.getElementById('nav-jobs').setAttribute('aria-current', path === '/' ? 'page' : 'false');
  main.replaceChildren();
  window.scrollTo(0, 0);
  if (job) jobView(context, job[1]);
  else if (path === '/' || path === '/jobs') jobsView(context);
  else context.failed(Object.assign(new Error(`There is no page ${path}.`), {status: 404}));
}

document.getElementById('skip').addEventListener('click', (event) => {
  event.preventDefault(); // the address names the view
  main.focus();
});
window.addEventListener('hashchange', open);
open();
