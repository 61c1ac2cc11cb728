// The book's two reference networks in plain JavaScript: a Swin encoder with SimMIM's head, which fills in
// what is hidden (chapter 6), and the same encoder with a UPerNet, which names land cover (chapter 7).
// Images are Float32Arrays of side x side values, row by row; maps hold their channels last.
"use strict";

const networks = (() => {
  // Weights -----------------------------------------------------------------------------------------

  /** {config, index: {name: [shape, offset, whether quantised]}, data}: data is gzip in base64. */
  async function unpack(pack) {
    const zipped = Uint8Array.from(atob(pack.data), (c) => c.charCodeAt(0));
    const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip"));
    const bytes = await new Response(stream).arrayBuffer();
    const weights = {};
    for (const [name, [shape, offset, quantised]] of Object.entries(pack.index)) {
      const size = shape.reduce((a, b) => a * b, 1);
      const data = quantised ? dequantised(bytes, offset, shape[0], size) : new Float32Array(bytes, offset, size);
      weights[name] = { data, shape };
    }
    return { config: pack.config, weights };
  }

  /** A matrix of whole numbers from -511 to 511: the scales of its rows, then all low bytes, then all high ones. */
  function dequantised(bytes, offset, rows, size) {
    const scales = new Float32Array(bytes, offset, rows);
    const low = new Uint8Array(bytes, offset + 4 * rows, size);
    const high = new Int8Array(bytes, offset + 4 * rows + size, size);
    return Float32Array.from(low, (value, i) => (value + 256 * high[i]) * scales[Math.floor(i / (size / rows))]);
  }

  // Layers ------------------------------------------------------------------------------------------

  /** Rows of x (n, inputs) times weight (outputs, inputs), plus bias: also a 1 x 1 convolution. */
  function linear(x, weight, bias) {
    const outputs = weight.shape[0], inputs = weight.data.length / outputs, n = x.length / inputs;
    const w = weight.data, y = new Float32Array(n * outputs);
    for (let i = 0; i < n; i++) {
      const row = i * inputs;
      for (let o = 0; o < outputs; o++) {
        const at = o * inputs;
        let even = bias ? bias.data[o] : 0, odd = 0; // two sums, which the processor adds side by side
        for (let k = 0; k < inputs; k += 2) {
          even += w[at + k] * x[row + k];
          odd += w[at + k + 1] * x[row + k + 1];
        }
        y[i * outputs + o] = even + odd;
      }
    }
    return y;
  }

  /** A 3 x 3 convolution of a map (side, side, inputs), with a rim of zeros. */
  function convolved(x, side, weight, bias) {
    const inputs = weight.shape[1], columns = new Float32Array(side * side * inputs * 9);
    for (let row = 0; row < side; row++)
      for (let col = 0; col < side; col++)
        for (let tap = 0; tap < 9; tap++) {
          const r = row + Math.floor(tap / 3) - 1, c = col + (tap % 3) - 1;
          if (r < 0 || c < 0 || r >= side || c >= side) continue;
          for (let k = 0; k < inputs; k++)
            columns[((row * side + col) * inputs + k) * 9 + tap] = x[(r * side + c) * inputs + k];
        }
    return linear(columns, weight, bias);
  }

  /** Each of n rows to mean 0 and variance 1, then scaled and shifted. */
  function layerNorm(x, { weight, bias }) {
    const c = weight.data.length, y = new Float32Array(x.length);
    for (let at = 0; at < x.length; at += c) {
      let mean = 0, square = 0;
      for (let k = 0; k < c; k++) mean += x[at + k] / c;
      for (let k = 0; k < c; k++) square += (x[at + k] - mean) ** 2 / c;
      const over = 1 / Math.sqrt(square + 1e-5);
      for (let k = 0; k < c; k++) y[at + k] = (x[at + k] - mean) * over * weight.data[k] + bias.data[k];
    }
    return y;
  }

  /** The same over all places of a map and the channels of each of 16 groups. */
  function groupNorm(x, { weight, bias }) {
    const c = weight.data.length, each = c / 16, count = (x.length / c) * each, y = new Float32Array(x.length);
    for (let first = 0; first < c; first += each) {
      let mean = 0, square = 0;
      const members = (visit) => {
        for (let at = first; at < x.length; at += c) for (let k = 0; k < each; k++) visit(at + k, first + k);
      };
      members((i) => (mean += x[i] / count));
      members((i) => (square += (x[i] - mean) ** 2 / count));
      const over = 1 / Math.sqrt(square + 1e-5);
      members((i, k) => (y[i] = (x[i] - mean) * over * weight.data[k] + bias.data[k]));
    }
    return y;
  }

  /** GELU, x times the normal distribution; the error function after Abramowitz and Stegun 7.1.26. */
  function gelu(x) {
    return x.map((v) => {
      const z = Math.abs(v) * Math.SQRT1_2, t = 1 / (1 + 0.3275911 * z);
      const series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
      const erf = Math.sign(v) * (1 - series * Math.exp(-z * z));
      return 0.5 * v * (1 + erf);
    });
  }

  const sum = (x, y) => x.map((v, i) => v + y[i]);

  /** Bilinear, corners aligned: a map (from, from, c) to (to, to, c). */
  function resized(x, from, to) {
    if (from === to) return x;
    const c = x.length / (from * from), y = new Float32Array(to * to * c);
    const place = (i) => {
      const exact = to > 1 ? (i * (from - 1)) / (to - 1) : 0, low = Math.min(Math.floor(exact), Math.max(from - 2, 0));
      return [low, Math.min(low + 1, from - 1), exact - low];
    };
    for (let row = 0; row < to; row++)
      for (let col = 0; col < to; col++) {
        const [top, bottom, down] = place(row), [left, right, along] = place(col);
        for (let k = 0; k < c; k++) {
          const at = (r, s) => x[(r * from + s) * c + k];
          const above = at(top, left) * (1 - along) + at(top, right) * along;
          const below = at(bottom, left) * (1 - along) + at(bottom, right) * along;
          y[(row * to + col) * c + k] = above * (1 - down) + below * down;
        }
      }
    return y;
  }

  /** Maps side by side in their channels. */
  function joined(maps, places) {
    const widths = maps.map((m) => m.length / places), c = widths.reduce((a, b) => a + b);
    const y = new Float32Array(places * c);
    let first = 0;
    maps.forEach((m, i) => {
      for (let p = 0; p < places; p++) y.set(m.subarray(p * widths[i], (p + 1) * widths[i]), p * c + first);
      first += widths[i];
    });
    return y;
  }

  // The encoder -------------------------------------------------------------------------------------

  /** Weights whose names begin with a path: at("norm1.weight"), pair("norm1"). */
  function under(weights, path) {
    const at = (name) => weights[path + name];
    const pair = (name) => ({ weight: at(`${name}.weight`), bias: at(`${name}.bias`) });
    const dense = (x, name) => linear(x, at(`${name}.weight`), at(`${name}.bias`));
    return { at, pair, dense, under: (more) => under(weights, path + more) };
  }

  /** Tokens of 4 x 4 pixels: (side/4 * side/4, channels). */
  function embedded(image, side, here) {
    const tokens = side / 4, pixels = new Float32Array(image.length);
    for (let t = 0; t < tokens * tokens; t++)
      for (let p = 0; p < 16; p++) {
        const row = Math.floor(t / tokens) * 4 + Math.floor(p / 4), col = (t % tokens) * 4 + (p % 4);
        pixels[t * 16 + p] = image[row * side + col];
      }
    return layerNorm(here.dense(pixels, "patch_embed.proj"), here.pair("patch_embed.norm"));
  }

  /** Attention within windows, which are shifted by half in every second block. */
  function attention(x, side, heads, shift, window, here) {
    const c = x.length / (side * side), d = c / heads, size = window * window, scale = 1 / Math.sqrt(d);
    const qkv = here.dense(x, "qkv"), table = here.at("relative_position_bias_table").data;
    const out = new Float32Array(x.length), score = new Float32Array(size);
    // A shifted window holds parts from opposite rims of the map, which must not see each other.
    const part = (v) => (!shift || v < side - window ? 0 : v < side - shift ? 1 : 2);
    for (let corner = 0; corner < side * side; corner += size) {
      const index = corner / size, across = side / window;
      const top = Math.floor(index / across) * window, left = (index % across) * window;
      const place = [], zone = [];
      for (let t = 0; t < size; t++) {
        const row = top + Math.floor(t / window), col = left + (t % window);
        place.push(((row + shift) % side) * side + ((col + shift) % side));
        zone.push(3 * part(row) + part(col));
      }
      for (let head = 0; head < heads; head++)
        for (let i = 0; i < size; i++) {
          const query = place[i] * 3 * c + head * d;
          let highest = -Infinity, total = 0;
          for (let j = 0; j < size; j++) {
            score[j] = -Infinity;
            if (zone[i] !== zone[j]) continue;
            const key = place[j] * 3 * c + c + head * d;
            let dot = 0;
            for (let k = 0; k < d; k++) dot += qkv[query + k] * qkv[key + k];
            const down = Math.floor(i / window) - Math.floor(j / window) + window - 1;
            const along = (i % window) - (j % window) + window - 1;
            score[j] = dot * scale + table[(down * (2 * window - 1) + along) * heads + head];
            highest = Math.max(highest, score[j]);
          }
          for (let j = 0; j < size; j++) {
            score[j] = Math.exp(score[j] - highest);
            total += score[j];
          }
          const to = place[i] * c + head * d;
          for (let j = 0; j < size; j++) {
            if (!score[j]) continue;
            const value = place[j] * 3 * c + 2 * c + head * d, share = score[j] / total;
            for (let k = 0; k < d; k++) out[to + k] += share * qkv[value + k];
          }
        }
    }
    return here.dense(out, "proj");
  }

  /** A Swin block: attention, then two layers on every token by itself; both are added to what came in. */
  function block(x, side, heads, shift, window, here) {
    const seen = attention(layerNorm(x, here.pair("norm1")), side, heads, shift, window, here.under("attn."));
    const mixed = sum(x, seen), own = here.under("mlp.");
    return sum(mixed, own.dense(gelu(own.dense(layerNorm(mixed, here.pair("norm2")), "fc1")), "fc2"));
  }

  /** Four neighbours become one token of twice the channels. */
  function merged(x, side, here) {
    const c = x.length / (side * side), half = side / 2, four = new Float32Array(x.length);
    for (let row = 0; row < half; row++)
      for (let col = 0; col < half; col++)
        for (let n = 0; n < 4; n++) {
          const from = ((2 * row + (n % 2)) * side + 2 * col + Math.floor(n / 2)) * c;
          four.set(x.subarray(from, from + c), (row * half + col) * 4 * c + n * c);
        }
    return here.dense(layerNorm(four, here.pair("norm")), "reduction");
  }

  /** What each of the four stages gives, from fine to coarse. */
  function stages(tokens, config, here) {
    const positions = here.at("absolute_pos_embed");
    let x = positions ? sum(tokens, positions.data) : tokens, side = config.image_size / 4;
    return config.depths.map((depth, stage) => {
      const level = here.under(`layers.${stage}.`);
      if (stage) {
        x = merged(x, side, level.under("downsample."));
        side /= 2;
      }
      const window = Math.min(config.window_size, side);
      for (let i = 0; i < depth; i++) {
        const shift = i % 2 && side > window ? window / 2 : 0;
        x = block(x, side, config.num_heads[stage], shift, window, level.under(`blocks.${i}.`));
      }
      return x;
    });
  }

  // The two networks --------------------------------------------------------------------------------

  /** (image, hidden) => image: hidden holds 1 for cells of 16 x 16 pixels that the network may not see. */
  async function simmim(pack) {
    const { config, weights } = await unpack(pack);
    const here = under(weights, "encoder."), side = config.image_size, cells = side / 16;
    return (image, hidden) => {
      const tokens = embedded(image, side, here), c = config.embed_dim, across = side / 4;
      for (let t = 0; t < across * across; t++)
        if (hidden[Math.floor(t / across / 4) * cells + Math.floor((t % across) / 4)])
          tokens.set(weights["mask_token"].data, t * c);
      const last = layerNorm(stages(tokens, config, here).at(-1), here.pair("norm"));
      const pixels = under(weights, "decoder.").dense(last, "0"), out = new Float32Array(side * side);
      for (let row = 0; row < side; row++)
        for (let col = 0; col < side; col++) {
          const cell = Math.floor(row / 32) * (side / 32) + Math.floor(col / 32);
          out[row * side + col] = pixels[cell * 1024 + (row % 32) * 32 + (col % 32)];
        }
      return out;
    };
  }

  /** image => logits of every pixel and class, classes last. */
  async function segmenter(pack) {
    const { config, weights } = await unpack(pack);
    const encoder = under(weights, "encoder."), decoder = under(weights, "decoder.");
    const pointwise = (x, path) => gelu(groupNorm(decoder.dense(x, `${path}.0`), decoder.pair(`${path}.1`)));
    const twice = (x, side, path) => {
      for (const i of [0, 3]) {
        const { weight, bias } = decoder.pair(`${path}.${i}`);
        x = convolved(x, side, weight, bias).map((v) => Math.max(v, 0));
      }
      return x;
    };
    return (image) => {
      const side = config.image_size, fine = side / 4, coarse = side / 32;
      const [f1, f2, f3, f4] = stages(embedded(image, side, encoder), config, encoder);
      const levels = [1, 2, 3, 6].map((bins, i) => {
        const pooled = decoder.dense(largest(f4, coarse, bins), `pyramid.${i}.1`);
        return resized(gelu(groupNorm(pooled, decoder.pair(`pyramid.${i}.2`))), bins, coarse);
      });
      const x1 = pointwise(joined([...levels, f4], coarse * coarse), "fuse_pyramid");
      let x2 = decoder.dense(resized(x1, coarse, 2 * coarse), "project");
      x2 = pointwise(sum(x2, pointwise(f3, "laterals.2")), "smooth.2");
      const x3 = pointwise(sum(resized(x2, fine / 4, fine / 2), pointwise(f2, "laterals.1")), "smooth.1");
      const x4 = pointwise(sum(resized(x3, fine / 2, fine), pointwise(f1, "laterals.0")), "smooth.0");
      const all = [resized(x1, coarse, fine), resized(x2, fine / 4, fine), resized(x3, fine / 2, fine), x4];
      const x = pointwise(joined(all, fine * fine), "fuse"), half = side / 2;
      // The image itself joins, at the two finest scales of a U-Net.
      const atHalf = twice(squares(image, side), half, "head.at_half");
      const atQuarter = twice(largest(atHalf, half, fine), fine, "head.at_quarter");
      const mixed = twice(joined([x, atQuarter], fine * fine), fine, "head.coarse");
      const seen = twice(joined([resized(mixed, fine, half), atHalf], half * half), half, "head.fine");
      return spread(decoder.dense(seen, "head.classify.0"), half);
    };
  }

  /** The largest value of each channel in bins x bins parts of a map. */
  function largest(x, side, bins) {
    const c = x.length / (side * side), y = new Float32Array(bins * bins * c).fill(-Infinity);
    const range = (i) => [Math.floor((i * side) / bins), Math.ceil(((i + 1) * side) / bins)];
    for (let row = 0; row < bins; row++)
      for (let col = 0; col < bins; col++) {
        const [top, bottom] = range(row), [left, right] = range(col);
        for (let r = top; r < bottom; r++)
          for (let s = left; s < right; s++)
            for (let k = 0; k < c; k++) {
              const at = (row * bins + col) * c + k;
              y[at] = Math.max(y[at], x[(r * side + s) * c + k]);
            }
      }
    return y;
  }

  /** 2 x 2 pixels of an image as four channels. */
  function squares(image, side) {
    const half = side / 2, y = new Float32Array(image.length);
    for (let i = 0; i < image.length; i++) {
      const row = Math.floor(i / side), col = i % side;
      y[(Math.floor(row / 2) * half + Math.floor(col / 2)) * 4 + (row % 2) * 2 + (col % 2)] = image[i];
    }
    return y;
  }

  /** Four numbers a class, of 2 x 2 pixels, to (2 side, 2 side, classes). */
  function spread(x, side) {
    const classes = x.length / (side * side) / 4, y = new Float32Array(x.length);
    for (let row = 0; row < 2 * side; row++)
      for (let col = 0; col < 2 * side; col++)
        for (let k = 0; k < classes; k++) {
          const from = (Math.floor(row / 2) * side + Math.floor(col / 2)) * 4 * classes;
          y[(row * 2 * side + col) * classes + k] = x[from + 4 * k + (row % 2) * 2 + (col % 2)];
        }
    return y;
  }

  return { simmim, segmenter };
})();
