// Curves over steps (uPlot), with one cursor over all of a page, the values beside it, and a table for those who want
// numbers; and the small curves of the list.
import {h, number, setText} from './dom.js';

const SYNC = 'vireo-steps';
const dashes = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 2]];
const dark = window.matchMedia('(prefers-color-scheme: dark)');

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// series: [{name, label, points}]; points: a value now and then (evaluations), drawn as dots joined by a line.
export class Chart {
  constructor(title, series) {
    this.title = title;
    this.series = series;
    this.data = [[], ...series.map(() => [])];
    this.values = series.map(() => h('span', {class: 'legend-value'}));
    this.where = h('span', {class: 'legend-step'});
    this.plot = h('div', {class: 'plot', role: 'img'});
    this.table = h('div', {class: 'table-scroll'});
    this.details = h('details', {ontoggle: () => this.fillTable()}, h('summary', null, 'Numbers'), this.table);
    this.element = h('figure', {class: 'chart'},
      h('figcaption', null, h('span', {class: 'chart-title'}, title), this.where),
      h('div', {class: 'legend'}, series.map((s, i) => h('span', {class: 'legend-item'}, this.swatch(i),
        series.length > 1 || s.label !== title ? h('span', null, s.label) : null, this.values[i]))),
      this.plot, this.details);
    this.recolour = () => { this.build(); };
    dark.addEventListener('change', this.recolour);
    this.sizes = new ResizeObserver(() => this.fit());
    this.sizes.observe(this.plot);
  }

  swatch(i) {
    return h('span', {class: `swatch series-${i % 6} dash-${i % dashes.length}`, 'aria-hidden': true});
  }

  destroy() {
    dark.removeEventListener('change', this.recolour);
    this.sizes.disconnect();
    this.uplot?.destroy();
  }

  // columns: {step: […], name: […]}.
  set(columns) {
    this.data = [columns.step, ...this.series.map((s) => columns[s.name] ?? columns.step.map(() => null))];
    if (this.uplot) this.uplot.setData(this.data);
    else this.build();
    if (this.uplot?.cursor.idx === null || this.uplot?.cursor.idx === undefined) this.show(null);
    this.describe();
    if (this.details.open) this.fillTable();
  }

  fit() {
    const width = this.plot.clientWidth;
    if (!this.uplot) this.build();
    else if (width && width !== this.uplot.width) this.uplot.setSize({width, height: this.uplot.height});
  }

  build() {
    const width = this.plot.clientWidth;
    if (!width) return;
    this.uplot?.destroy();
    const axis = {stroke: colour('--muted'), grid: {stroke: colour('--grid'), width: 1}, ticks: {show: false},
      font: '11px system-ui, sans-serif', gap: 4};
    const options = {
      width, height: 170, legend: {show: false}, padding: [8, 10, 0, 0],
      cursor: {sync: {key: SYNC, setSeries: false}, y: false, drag: {x: true, y: false}, points: {size: 6}},
      scales: {x: {time: false}, y: {range: (u, min, max) => spread(min, max)}},
      axes: [{...axis, size: 26, space: 60, values: (u, ticks) => ticks.map((t) => (Number.isInteger(t) ? String(t) : ''))},
        {...axis, size: 52, space: 34, values: tickLabels}],
      series: [{}, ...this.series.map((s, i) => ({
        label: s.label, stroke: colour(`--series-${i % 6}`), width: 1.75, dash: dashes[i % dashes.length], spanGaps: true,
        points: {show: s.points || ((u) => u.data[0].length === 1), size: 5, fill: colour(`--series-${i % 6}`)}}))],
      hooks: {setCursor: [(u) => this.show(u.cursor.idx ?? null)]},
    };
    this.uplot = new window.uPlot(options, this.data, this.plot);
    this.show(null);
  }

  // The values at a step, or the last ones.
  show(index) {
    const steps = this.data[0];
    setText(this.where, index === null || !steps.length ? '' : `step ${steps[index]}`);
    this.series.forEach((s, i) => {
      const column = this.data[i + 1];
      let at = index ?? column.length - 1;
      if (index === null) while (at >= 0 && column[at] === null) at--;
      setText(this.values[i], number(column[at] ?? null));
    });
  }

  describe() {
    const steps = this.data[0];
    const part = this.series.map((s, i) => {
      const column = this.data[i + 1].filter((v) => v !== null);
      return column.length ? `${s.label} from ${number(column[0])} to ${number(column.at(-1))}` : `${s.label}: none yet`;
    });
    const span = steps.length ? `steps ${steps[0]} to ${steps.at(-1)}` : 'no steps yet';
    const text = `${this.title}, ${span}: ${part.join('; ')}.`;
    if (this.plot.getAttribute('aria-label') !== text) this.plot.setAttribute('aria-label', text);
  }

  fillTable() {
    if (!this.details.open) return;
    const rows = this.data[0].map((step, k) => h('tr', null, h('th', {scope: 'row'}, String(step)),
      this.series.map((s, i) => h('td', null, number(this.data[i + 1][k])))));
    this.table.replaceChildren(h('table', null, h('thead', null, h('tr', null, h('th', {scope: 'col'}, 'step'),
      this.series.map((s) => h('th', {scope: 'col'}, s.label)))), h('tbody', null, rows)));
  }
}

// As many digits as tell neighbours apart.
function tickLabels(u, ticks, axis, space, step) {
  const digits = Math.max(0, Math.ceil(-Math.log10(step)));
  return ticks.map((t) => (step < 1e-4 && Math.abs(t) < 1e-2 || Math.abs(t) >= 1e6 ? number(t, 3) :
    String(Number(t.toFixed(Math.min(digits + 1, 8))))));
}

// The range of the vertical axis: room round the values; a flat line lies in the middle, or on the floor if it is 0.
function spread(min, max) {
  if (min === null || min === undefined || !Number.isFinite(min)) return [0, 1];
  if (min === max) return min === 0 ? [0, 1] : [min - Math.abs(min) * 0.5, max + Math.abs(max) * 0.5];
  const room = (max - min) * 0.08;
  return [min >= 0 && min - room < 0 ? 0 : min - room, max + room];
}

// A curve without axes, as an SVG; null without two values.
export function sparkline(values, name) {
  const points = values.map((v, i) => [i, v]).filter(([, v]) => v !== null && Number.isFinite(v));
  if (points.length < 2) return null;
  const width = 110, height = 26, low = Math.min(...points.map((p) => p[1])), high = Math.max(...points.map((p) => p[1]));
  const x = (i) => 2 + (i / (values.length - 1)) * (width - 4);
  const y = (v) => (high > low ? height - 3 - ((v - low) / (high - low)) * (height - 6) : height / 2);
  const space = 'http://www.w3.org/2000/svg', svg = document.createElementNS(space, 'svg');
  const line = document.createElementNS(space, 'polyline');
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.setAttribute('class', 'sparkline');
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', `${name} from ${number(points[0][1])} to ${number(points.at(-1)[1])}`);
  line.setAttribute('points', points.map(([i, v]) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`).join(' '));
  svg.append(line);
  return svg;
}
