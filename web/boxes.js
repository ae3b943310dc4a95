// Boxes: read from answers and from a row's truth, compared, and drawn over the image.
const NUMBER = '\\s*(-?\\d+(?:\\.\\d+)?)\\s*';
const QUAD = `\\[${NUMBER},${NUMBER},${NUMBER},${NUMBER}\\]`;

// All "bbox_2d" boxes of a text; without any, the first [a, b, c, d]. Only the first <answer> counts where there is one.
export function boxesOfText(text) {
  const answer = /<answer>([\s\S]*?)(?:<\/answer>|$)/.exec(text);
  const part = answer ? answer[1] : text;
  const found = [];
  for (const m of part.matchAll(new RegExp(`"bbox_2d"\\s*:\\s*${QUAD}(?:\\s*,\\s*"label"\\s*:\\s*"([^"]*)")?`, 'g')))
    found.push({box: m.slice(1, 5).map(Number), label: m[5] ?? ''});
  if (!found.length) {
    const m = new RegExp(QUAD).exec(part);
    if (m) found.push({box: m.slice(1, 5).map(Number), label: ''});
  }
  return found;
}

function isBox(value) {
  return Array.isArray(value) && value.length === 4 && value.every(Number.isFinite);
}

function boxesOfValue(value) {
  if (typeof value === 'string') return boxesOfText(value);
  if (isBox(value)) return [{box: value, label: ''}];
  if (Array.isArray(value)) return value.flatMap(boxesOfValue);
  if (value && isBox(value.bbox_2d)) return [{box: value.bbox_2d, label: String(value.label ?? '')}];
  return [];
}

// The truth of a row: item.boxes, or else item.solution in any of its forms. Pixels of the image file.
export function truthOf(item) {
  const boxes = boxesOfValue(item?.boxes);
  return boxes.length ? boxes : boxesOfValue(item?.solution);
}

// A model answers in pixels of the image as it saw it, unless the grader takes its numbers as they are.
export function toImage(box, image, absolute) {
  if (absolute || !(image?.model_width > 0) || !(image?.model_height > 0)) return box;
  const x = image.width / image.model_width, y = image.height / image.model_height;
  return [box[0] * x, box[1] * y, box[2] * x, box[3] * y];
}

// Whether any iou rule below this grader has coords "absolute".
export function isAbsolute(grader) {
  if (!grader || typeof grader !== 'object') return false;
  return grader.params?.coords === 'absolute' || Object.values(grader.graders ?? {}).some(isAbsolute);
}

export function iou(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const area = (q) => Math.max(0, q[2] - q[0]) * Math.max(0, q[3] - q[1]);
  const common = width > 0 && height > 0 ? width * height : 0, all = area(a) + area(b) - common;
  return all > 0 ? common / all : 0;
}

export const bestIou = (box, truth) => truth.reduce((best, t) => Math.max(best, iou(box, t.box)), 0);

function label(context, text, x, y, colour, width) {
  context.font = '600 12px system-ui, sans-serif';
  const wide = context.measureText(text).width + 8, left = Math.max(0, Math.min(x, width - wide));
  context.fillStyle = colour;
  context.fillRect(left, y, wide, 17);
  context.fillStyle = '#fff';
  context.fillText(text, left + 4, y + 13);
}

function outline(context, box, scale, colour, dash) {
  const at = [box[0] * scale[0], box[1] * scale[1], (box[2] - box[0]) * scale[0], (box[3] - box[1]) * scale[1]];
  context.setLineDash([]); // a pale edge below, so that the colour is seen on any picture
  context.strokeStyle = 'rgba(255, 255, 255, 0.75)';
  context.lineWidth = 4;
  context.strokeRect(...at);
  context.setLineDash(dash);
  context.strokeStyle = colour;
  context.lineWidth = 2.5;
  context.strokeRect(...at);
  context.setLineDash([]);
  return at;
}

// truth: green, solid; predicted: orange, dashed, with its IoU. Boxes are in pixels of the image; the canvas lies over it,
// with a margin round it so that a box at the image's edge is drawn whole.
export function drawBoxes(canvas, image, width, height, margin, truth, predicted) {
  const ratio = window.devicePixelRatio || 1, context = canvas.getContext('2d');
  const style = getComputedStyle(document.documentElement);
  const wanted = [Math.round((width + 2 * margin) * ratio), Math.round((height + 2 * margin) * ratio)];
  if (canvas.width !== wanted[0] || canvas.height !== wanted[1]) [canvas.width, canvas.height] = wanted;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width + 2 * margin, height + 2 * margin);
  context.translate(margin, margin);
  const scale = [width / image.width, height / image.height];
  for (const t of truth) {
    const at = outline(context, t.box, scale, style.getPropertyValue('--truth'), []);
    if (t.label) label(context, t.label, at[0], at[1] + at[3] + 2, style.getPropertyValue('--truth'), width);
  }
  for (const p of predicted) {
    const at = outline(context, p.box, scale, style.getPropertyValue('--predicted'), [7, 4]);
    const text = `${p.label ? `${p.label} ` : ''}${truth.length ? `IoU ${bestIou(p.box, truth).toFixed(2)}` : ''}`;
    const y = at[1] >= 19 ? at[1] - 19 : at[1] + 2;
    if (text) label(context, text, at[0], y, style.getPropertyValue('--predicted'), width);
  }
}
