// Reads Prometheus text, and keeps a minute of it to make rates and means of. Knows no element of the page.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})? (\S+)/;

/** Prometheus text → Map of name → sum over its series. */
export function parse(text) {
  const sums = new Map();
  for (const line of text.split("\n")) {
    const match = SAMPLE.exec(line);
    if (match) sums.set(match[1], (sums.get(match[1]) ?? 0) + Number(match[2]));
  }
  return sums;
}

export class History {
  constructor(seconds) {
    this.seconds = seconds;
    this.samples = []; // {at, sums}, oldest first
  }

  add(at, sums) {
    const last = this.samples.at(-1);
    if (last && get(sums, "ernie_generation_tokens_total") < get(last.sums, "ernie_generation_tokens_total")) this.samples = []; // restarted
    this.samples.push({ at, sums });
    while (this.samples.length > 2 && at - this.samples[0].at > this.seconds) this.samples.shift();
  }

  /** Growth of a counter per second over the last `seconds`; null before there are two samples. */
  rate(name, seconds) {
    const last = this.samples.at(-1);
    const first = this.samples.find((sample) => last.at - sample.at <= seconds + 0.5);
    if (!last || !first || first === last) return null;
    return (get(last.sums, name) - get(first.sums, name)) / (last.at - first.at);
  }

  /** Mean of what a histogram took in over the whole history; null if that is nothing. */
  mean(name) {
    const last = this.samples.at(-1), first = this.samples[0];
    if (!last) return null;
    const count = get(last.sums, `${name}_count`) - get(first.sums, `${name}_count`);
    return count > 0 ? (get(last.sums, `${name}_sum`) - get(first.sums, `${name}_sum`)) / count : null;
  }

  /** The growth between each two samples, per second. */
  rates(name) {
    return this.samples.slice(1).map((sample, i) => {
      const before = this.samples[i];
      return (get(sample.sums, name) - get(before.sums, name)) / Math.max(0.001, sample.at - before.at);
    });
  }
}

export function get(sums, name) {
  return sums.get(name) ?? 0;
}
