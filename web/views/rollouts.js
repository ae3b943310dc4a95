// The completions of a step: the image with true and predicted boxes, and each completion with its rewards and advantage.
import {getGroups, imageUrl} from '../api.js';
import {bestIou, boxesOfText, drawBoxes, isAbsolute, toImage, truthOf} from '../boxes.js';
import {failure, h, number, setText, signed} from '../dom.js';

const MARGIN = 3, PACE_MS = 2000;
const ends = {stop: 'finished', length: 'cut at the length limit', cancelled: 'cancelled', failed: 'failed'};

function textOf(completion) {
  const m = /^\s*<think>([\s\S]*?)<\/think>([\s\S]*)$/.exec(completion);
  if (!m) return [h('pre', {class: 'text'}, completion || '(empty)')];
  const words = m[1].trim().split(/\s+/).filter(Boolean).length;
  return [h('details', {class: 'think'}, h('summary', null, `Reasoning, ${words} word${words === 1 ? '' : 's'}`),
    h('pre', {class: 'text'}, m[1].trim())), h('pre', {class: 'text'}, m[2].trim() || '(no answer)')];
}

function bar(name, value) {
  const fill = h('span', {class: 'bar-fill'});
  fill.style.width = `${Math.max(0, Math.min(1, value)) * 100}%`;
  return h('div', {class: 'bar-row'}, h('span', {class: 'bar-name'}, name),
    h('span', {class: 'bar', 'aria-hidden': true}, fill),
    h('span', {class: 'number'}, number(value, 3)));
}

// Diverging: left of the middle below the group's mean, right of it above.
function advantageMark(value, most) {
  const part = most > 0 ? Math.abs(value) / most : 0, fill = h('span', {class: value < 0 ? 'minus' : 'plus'});
  fill.style.width = `${part * 50}%`;
  return h('span', {class: 'advantage'}, h('span', {class: 'advantage-name'}, 'advantage'),
    h('span', {class: 'diverging', 'aria-hidden': true}, fill),
    h('span', {class: `number ${value < 0 ? 'minus-text' : value > 0 ? 'plus-text' : ''}`}, signed(value)));
}

class Picture {
  constructor() {
    this.image = h('img', {alt: '', onload: () => this.fit(), onerror: () => this.missing()});
    this.canvas = h('canvas', {class: 'boxes', 'aria-hidden': true});
    this.frame = h('div', {class: 'frame'}, this.image, this.canvas);
    this.note = h('p', {class: 'quiet'});
    this.element = h('div', {class: 'picture'}, this.frame, h('p', {class: 'keys'},
      h('span', null, h('span', {class: 'key key-truth', 'aria-hidden': true}), 'true box'),
      h('span', null, h('span', {class: 'key key-predicted', 'aria-hidden': true}), 'predicted box, with its IoU')), this.note);
    this.truth = [];
    this.predicted = [];
    this.sizes = new ResizeObserver(() => this.fit());
    this.sizes.observe(this.element);
    this.scheme = window.matchMedia('(prefers-color-scheme: dark)');
    this.redraw = () => this.draw();
    this.scheme.addEventListener('change', this.redraw);
  }

  destroy() {
    this.sizes.disconnect();
    this.scheme.removeEventListener('change', this.redraw);
  }

  set(info, truth, predicted) {
    this.truth = truth;
    this.predicted = predicted;
    this.element.hidden = !info;
    if (!info) return;
    const said = `${truth.length} true and ${predicted.length} predicted box${predicted.length === 1 ? '' : 'es'}` +
      (truth.length && predicted.length ? `, IoU ${predicted.map((p) => bestIou(p.box, truth).toFixed(2)).join(', ')}` : '');
    this.image.alt = `The image of the question, ${said}`;
    if (this.info?.image !== info.image) {
      this.info = info;
      setText(this.note, '');
      this.image.src = imageUrl(info.image);
    }
    this.fit();
  }

  missing() {
    setText(this.note, `Image ${this.info.image} cannot be shown: it is no longer stored, or was named by a file.`);
  }

  // Small pictures grow by a whole factor, large ones shrink to the column.
  fit() {
    const room = this.element.clientWidth - 2 * MARGIN;
    if (!this.info || room <= 0) return;
    const {width, height} = this.info, most = Math.min(room / width, 460 / height);
    const scale = most >= 2 ? Math.floor(most) : most;
    this.width = width * scale;
    this.height = height * scale;
    this.image.style.width = `${this.width}px`;
    this.image.style.height = `${this.height}px`;
    this.image.classList.toggle('pixels', scale >= 2);
    for (const [name, value] of [['width', this.width], ['height', this.height]])
      this.canvas.style[name] = `${value + 2 * MARGIN}px`;
    this.draw();
  }

  draw() {
    if (this.info && this.width)
      drawBoxes(this.canvas, this.info, this.width, this.height, MARGIN, this.truth, this.predicted);
  }
}

export class Rollouts {
  constructor(job, signal) {
    this.job = job;
    this.signal = signal;
    this.groups = [];
    this.at = 0;        // index of the group shown
    this.selected = 0;  // completion whose boxes stay
    this.newest = 0;    // newest step that has groups
    this.step = null;   // step shown
    this.follow = true;
    this.loading = false;
    this.last = 0;
    this.picture = new Picture();
    this.slider = h('input', {type: 'range', min: '1', max: '1', value: '1', id: 'step', oninput: () => this.chosen()});
    this.stepText = h('output', {for: 'step', class: 'number'});
    this.followBox = h('input', {type: 'checkbox', id: 'follow', checked: true, onchange: () => {
      this.follow = this.followBox.checked;
      if (this.follow) this.go(this.newest);
    }});
    this.groupText = h('span', {class: 'number'});
    this.previous = h('button', {type: 'button', 'aria-label': 'Previous group', onclick: () => this.turn(-1)}, '‹');
    this.next = h('button', {type: 'button', 'aria-label': 'Next group', onclick: () => this.turn(1)}, '›');
    this.prompt = h('p', {class: 'prompt'});
    this.summary = h('p', {class: 'quiet'});
    this.list = h('ol', {class: 'completions'});
    this.told = h('div');
    this.body = h('div', {class: 'rollout'},
      h('div', {class: 'rollout-left'}, this.prompt, this.picture.element, this.summary), this.list);
    this.body.hidden = true;
    this.empty = h('p', {class: 'quiet'}, 'Nothing sampled yet. The completions of each step appear here as soon as the first ' +
      'step is done.');
    this.controls = h('div', {class: 'controls'}, h('label', {for: 'step'}, 'Step'), this.slider, this.stepText,
      h('label', {class: 'check'}, this.followBox, 'follow the newest'),
      h('span', {class: 'turn'}, this.previous, this.groupText, this.next));
    this.controls.hidden = true;
    this.element = h('section', {class: 'panel', 'aria-labelledby': 'rollouts-title'},
      h('h2', {id: 'rollouts-title'}, 'Completions'), this.controls, this.told, this.empty, this.body);
    signal.addEventListener('abort', () => { clearTimeout(this.timer); this.picture.destroy(); });
  }

  // A step is known to be done.
  reached(step) {
    if (step <= this.newest) return;
    this.newest = step;
    this.controls.hidden = false;
    this.slider.max = String(step);
    this.headline();
    if (this.follow && !this.busy()) this.soon();
  }

  // Someone reads: the text below the pointer or the focus must not be replaced.
  busy() {
    return this.list.matches(':hover') || (this.list.contains(document.activeElement) && this.step !== null);
  }

  soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (this.follow && !this.busy()) this.go(this.newest);
    }, Math.max(0, this.last + PACE_MS - Date.now()));
  }

  chosen() {
    const step = Number(this.slider.value);
    this.follow = this.followBox.checked = step === this.newest;
    setText(this.stepText, `${step} of ${this.newest}`);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.go(step), 120);
  }

  async go(step) {
    if (!step || step === this.step) return;
    if (this.loading) {
      this.wanted = step;
      return;
    }
    this.loading = true;
    this.wanted = null;
    try {
      const page = await getGroups(this.job.id, step, this.signal);
      this.groups = page.data.sort((a, b) => a.index - b.index);
      this.step = step;
      this.at = Math.min(this.at, Math.max(0, this.groups.length - 1));
      this.told.replaceChildren();
      this.show();
    } catch (e) {
      if (e.name !== 'AbortError') this.told.replaceChildren(failure(e));
    }
    this.loading = false;
    this.last = Date.now();
    if (this.wanted) this.go(this.wanted);
  }

  turn(by) {
    this.at = Math.max(0, Math.min(this.groups.length - 1, this.at + by));
    this.show();
  }

  headline() {
    if (this.step !== null && document.activeElement !== this.slider) this.slider.value = String(this.step);
    setText(this.stepText, this.step === null ? '' : `${this.step} of ${this.newest}`);
    setText(this.groupText, this.groups.length ? `group ${this.at + 1} of ${this.groups.length}` : '');
    this.previous.disabled = this.at <= 0;
    this.next.disabled = this.at >= this.groups.length - 1;
  }

  predictedOf(sample) {
    const image = this.group.images?.[0], absolute = isAbsolute(this.job.method?.reinforcement?.grader);
    return boxesOfText(sample?.completion ?? '').map((p) => ({...p, box: toImage(p.box, image, absolute)}));
  }

  show() {
    this.group = this.groups[this.at];
    this.headline();
    this.body.hidden = !this.group;
    this.empty.hidden = Boolean(this.group);
    if (!this.group) {
      setText(this.empty, `No completions are stored for step ${this.step}` +
        (this.job.vireo?.log_completions === false ? ': the job was started with log_completions false.' : '.'));
      return;
    }
    const {samples} = this.group, most = Math.max(...samples.map((s) => Math.abs(s.advantage ?? 0)), 0);
    const lengths = samples.map((s) => s.token_count ?? 0);
    setText(this.prompt, this.group.prompt);
    setText(this.summary, `Row ${this.group.row_id || '–'}. Mean reward ${number(this.group.reward_mean, 3)}, spread ` +
      `${number(this.group.reward_std, 3)}; ${Math.min(...lengths)} to ${Math.max(...lengths)} tokens.` +
      (this.group.reward_std === 0 ? ' All rewards are equal: this group teaches nothing.' : ''));
    this.selected = Math.min(this.selected, samples.length - 1);
    this.list.replaceChildren(...samples.map((s, i) => this.card(s, i, most)));
    this.pick(this.selected);
  }

  card(sample, i, most) {
    const reasons = Object.entries(sample.reasons ?? {}).filter(([, text]) => text);
    const button = h('button', {type: 'button', class: 'pick', 'aria-pressed': 'false', onclick: () => {
      this.selected = i;
      this.pick(i);
    }}, `Completion ${i + 1}`);
    return h('li', {class: 'completion', onmouseenter: () => this.pick(i), onmouseleave: () => this.pick(this.selected),
      onfocusin: () => this.pick(i)},
    h('div', {class: 'completion-head'}, button, h('span', {class: 'reward'}, 'reward ',
      h('strong', {class: 'number'}, number(sample.reward, 3))), advantageMark(sample.advantage ?? 0, most)),
    textOf(sample.completion ?? ''),
    h('div', {class: 'bars'}, Object.entries(sample.sub_rewards ?? {}).map(([name, value]) => bar(name, value))),
    h('p', {class: 'facts'}, `${sample.token_count ?? '–'} tokens, ${ends[sample.finish_reason] ?? sample.finish_reason}` +
      (Number.isFinite(sample.kl) ? `, KL ${number(sample.kl, 3)}` : '') + (sample.parse_error ? ', could not be read' : '')),
    reasons.length ? h('details', {class: 'why'}, h('summary', null, 'Why these rewards'),
      h('ul', null, reasons.map(([name, text]) => h('li', null, `${name}: ${text}`)))) : null);
  }

  pick(i) {
    [...this.list.children].forEach((li, k) => {
      li.classList.toggle('picked', k === i);
      li.querySelector('.pick').setAttribute('aria-pressed', String(k === this.selected));
    });
    this.picture.set(this.group.images?.[0], truthOf(this.group.item), this.predictedOf(this.group.samples[i]));
  }
}
