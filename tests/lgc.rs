//! Temporary.
use linformer::ndarray::{Array2, Array3, s};
use linformer::*;

fn x(seed: u64, batch: usize, n: usize, d: usize) -> Array3<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    Array3::from_shape_fn((batch, n, d), |_| {
        state ^= state << 13; state ^= state >> 7; state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    })
}

fn fill<P: Parameters<f64>>(p: &mut P) {
    let mut i = 0u32;
    p.visit_mut("", &mut |_, _, mut t| for v in t.iter_mut() { i += 1; *v = ((i * i) as f64 * 0.37).sin() * 0.7; });
}

fn get(layer: &LocalGlobalAttention<f64>, want: &str) -> Option<Array2<f64>> {
    let mut found = None;
    layer.visit("", &mut |name, _, t| if name == want {
        let t = t.to_owned();
        let t = if t.ndim() == 1 { let n = t.len(); t.into_shape_with_order((1, n)).unwrap().into_dyn() } else { t };
        found = Some(t.into_dimensionality().unwrap());
    });
    found
}

fn segments(m: usize, slots: usize) -> Vec<(usize, usize)> {
    let mut v: Vec<(usize, usize)> = vec![];
    if slots == 0 { return v; }
    for b in 0..m {
        v.push((b, 1));
        let mut len = 1;
        while v.iter().filter(|x| x.1 == len).count() > slots {
            let i = v.iter().position(|x| x.1 == len).unwrap();
            v.remove(i + 1);
            v[i].1 *= 2;
            len *= 2;
        }
    }
    v
}

/// The definition.
fn naive(layer: &LocalGlobalAttention<f64>, x: &Array3<f64>, real: &dyn Fn(usize, usize) -> bool) -> Array3<f64> {
    let c = layer.config();
    let (h, kv, hd) = (c.attention.heads, c.attention.kv_heads, c.attention.head_dim.unwrap_or(c.attention.dim / c.attention.heads));
    let lin = |w: &str, row: &[f64]| -> Vec<f64> {
        let m = get(layer, &format!("{w}.weight")).unwrap();
        let b = get(layer, &format!("{w}.bias"));
        (0..m.nrows()).map(|o| m.row(o).iter().zip(row).map(|(a, b)| a * b).sum::<f64>() + b.as_ref().map_or(0.0, |b| b[[0, o]])).collect()
    };
    let (batch, n, d) = x.dim();
    let mut out = Array3::zeros((batch, n, d));
    let scale = 1.0 / (hd as f64).sqrt();
    let u = get(layer, "pooling_query");
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() * scale;
    for item in 0..batch {
        let row = |i: usize| x.slice(s![item, i, ..]).to_vec();
        let q: Vec<_> = (0..n).map(|i| lin("query", &row(i))).collect();
        let k: Vec<_> = (0..n).map(|i| lin("key", &row(i))).collect();
        let v: Vec<_> = (0..n).map(|i| if c.attention.tie_key_value { k[i].clone() } else { lin("value", &row(i)) }).collect();
        for i in 0..n {
            if !real(item, i) { continue; }
            let t = i / c.block;
            let m = t.saturating_sub(1);
            let mut concat = vec![];
            for head in 0..h {
                let kh = head * kv / h;
                let part = |z: &Vec<f64>, h: usize| z[h * hd..(h + 1) * hd].to_vec();
                let qi = part(&q[i], head);
                let mut terms: Vec<(f64, Vec<f64>)> = vec![];
                for j in m * c.block..=i {
                    if real(item, j) { terms.push((dot(&qi, &part(&k[j], kh)), part(&v[j], kh))); }
                }
                for (first, len) in segments(m, c.slots) {
                    let uh: Vec<f64> = u.as_ref().unwrap().row(head).to_vec();
                    let js: Vec<usize> = (first * c.block..(first + len) * c.block).filter(|&j| real(item, j)).collect();
                    if js.is_empty() { continue; }
                    let z: f64 = js.iter().map(|&j| dot(&uh, &part(&k[j], kh)).exp()).sum();
                    let mean = |from: &Vec<Vec<f64>>| (0..hd).map(|e| js.iter().map(|&j| dot(&uh, &part(&k[j], kh)).exp() / z * part(&from[j], kh)[e]).sum::<f64>()).collect::<Vec<f64>>();
                    let (kb, vb) = (mean(&k), mean(&v));
                    terms.push((dot(&qi, &kb) + z.ln() - dot(&uh, &kb) + c.mass_shift, vb));
                }
                let z: f64 = terms.iter().map(|t| t.0.exp()).sum();
                concat.extend((0..hd).map(|e| terms.iter().map(|t| t.0.exp() / z * t.1[e]).sum::<f64>()));
            }
            let concat = if c.attention.output_rank.is_some() { lin("output_factor", &concat) } else { concat };
            out.slice_mut(s![item, i, ..]).assign(&linformer::ndarray::Array1::from(lin("output", &concat)));
        }
    }
    out
}

fn worst(a: &Array3<f64>, b: &Array3<f64>, real: &dyn Fn(usize, usize) -> bool) -> f64 {
    let mut w = 0.0f64;
    for ((i, t, _), v) in a.indexed_iter() { if real(i, t) { let e = (v - b[[i, t, a.dim().2.min(0)]]).abs(); let _ = e; } }
    for ((i, t, d), v) in a.indexed_iter() { if real(i, t) { w = w.max((v - b[[i, t, d]]).abs()); } }
    w
}

fn configs() -> Vec<LocalGlobalConfig> {
    let base = || LocalGlobalConfig::new(6, 2).with_causal(true);
    vec![
        base().with_block(4).with_slots(2),
        base().with_block(1).with_slots(1),
        base().with_block(2).with_slots(3).with_mass_shift(0.3).with_query_bias(true).with_key_value_bias(true, true),
        base().with_block(4).with_slots(0),
        base().with_block(2).with_slots(1).with_kv_heads(1).with_tied_key_value(true).with_output_rank(Some(3)),
        base().with_block(8).with_slots(64).with_kv_heads(1),
    ]
}

#[test]
fn definition() {
    for c in configs() {
        let mut layer = LocalGlobalAttention::<f64>::new(&c, 3).unwrap();
        fill(&mut layer);
        for n in [1, 3, 8, 37, 70] {
            let x = x(n as u64, 2, n, 6);
            for holes in [false, true] {
                let real = move |item: usize, t: usize| !holes || (t + item) % 5 != 1 && (item == 0 || t >= 3.min(n - 1)) ;
                let mask = PaddingMask::from_bools(&Array2::from_shape_fn((2, n), |(i, t)| real(i, t)));
                let m = holes.then_some(&mask);
                let y = layer.forward(&x, m).unwrap();
                let e = naive(&layer, &x, &real);
                let (yt, cache) = layer.forward_train(&x, m).unwrap();
                println!("{:?} {} {holes}: {:.1e} {:.1e}", (c.block, c.slots), n, worst(&y, &e, &real), worst(&yt, &e, &real));
                assert!(worst(&y, &e, &real) < 1e-12 && worst(&yt, &e, &real) < 1e-12);
                assert!(y.iter().all(|v| v.is_finite()));
                if n > 3 && n < 40 {
                    let dy = Array3::from_shape_fn(x.dim(), |(i, t, d)| if real(i, t) { ((i * 7 + t * 3 + d) as f64).sin() } else { 0.0 });
                    let mut g = layer.zeros_like();
                    let dx = layer.backward(cache, dy.clone(), &mut g).unwrap();
                    let loss = |l: &LocalGlobalAttention<f64>, x: &Array3<f64>| (&l.forward(x, m).unwrap() * &dy).sum();
                    let h = 1e-5;
                    let mut w = 0.0f64;
                    for t in 0..n { let mut a = x.clone(); a[[1, t, 2]] += h; let mut b = x.clone(); b[[1, t, 2]] -= h;
                        w = w.max(((loss(&layer, &a) - loss(&layer, &b)) / (2.0 * h) - dx[[1, t, 2]]).abs()); }
                    let mut grads = vec![];
                    g.visit("", &mut |name, _, t| grads.push((name.to_string(), t.to_owned())));
                    for (which, (name, t)) in grads.iter().enumerate() {
                        for e in (0..t.len()).step_by(5) {
                            let bump = |by: f64| { let mut l = layer.clone(); let mut i = 0; l.visit_mut("", &mut |_, _, mut t| { if i == which { *t.iter_mut().nth(e).unwrap() += by; } i += 1; }); loss(&l, &x) };
                            let d = ((bump(h) - bump(-h)) / (2.0 * h) - t.iter().nth(e).unwrap()).abs();
                            if d > 1e-6 { println!("  {name} {e}: {d:.1e}"); }
                            w = w.max(d);
                        }
                    }
                    println!("   gradients {w:.1e}");
                    assert!(w < 1e-6);
                }
            }
        }
    }
}

#[test]
fn later() {
    for c in configs() {
        let mut layer = LocalGlobalAttention::<f64>::new(&c, 3).unwrap();
        fill(&mut layer);
        let n = 70;
        let a = x(1, 1, n, 6);
        let y = layer.forward(&a, None).unwrap();
        for cut in [0, 1, 5, 30, 33, 64, 69] {
            for value in [f64::NAN, f64::INFINITY, 5.0] {
                let mut b = a.clone();
                b.slice_mut(s![.., cut.., ..]).fill(value);
                let z = layer.forward(&b, None).unwrap();
                assert_eq!(y.slice(s![.., ..cut, ..]), z.slice(s![.., ..cut, ..]), "{cut} {value}");
                assert!(value == 5.0 || z.slice(s![.., cut.., ..]).iter().all(|v| v.is_nan()));
                let (z, _) = layer.forward_train(&b, None).unwrap();
                assert_eq!(y.slice(s![.., ..cut, ..]), z.slice(s![.., ..cut, ..]), "{cut} {value}");
            }
        }
    }
}

#[test]
fn decoding() {
    for c in configs() {
        for shape in [0, 1, 2] {
            let e = EncoderConfig::new(c.clone(), 2);
            let e = match shape { 0 => e, 1 => e.with_reversible(true), _ => e.with_norm(NormPlacement::Post).with_final_norm(false) };
            let mut model = LanguageModel::<f64>::new(&LanguageModelConfig::new(11, e), 5).unwrap();
            fill(&mut model);
            let texts: Vec<Vec<usize>> = [9usize, 1, 17].iter().map(|&l| (0..l).map(|i| (i * i + l) % 11).collect()).collect();
            let (scores, mut state) = model.prefill(&texts).unwrap();
            let mut texts = texts.clone();
            let check = |texts: &Vec<Vec<usize>>, scores: &Array2<f64>| {
                let mut w = 0.0f64;
                for (i, t) in texts.iter().enumerate() {
                    let whole = model.forward(&Array2::from_shape_vec((1, t.len()), t.clone()).unwrap(), None).unwrap();
                    for (a, b) in whole.slice(s![0, t.len() - 1, ..]).iter().zip(scores.row(i)) { w = w.max((a - b).abs()); }
                }
                w
            };
            let mut w = check(&texts, &scores);
            for step in 0..40 {
                let tokens: Vec<Option<usize>> = (0..3).map(|i| (step % 3 != 1 || i != 2).then_some((step * 3 + i) % 11)).collect();
                let s = model.step(&mut state, &tokens).unwrap();
                let mut rows = vec![];
                let mut only = vec![];
                for (i, t) in tokens.iter().enumerate() { if let Some(t) = t { texts[i].push(*t); rows.push(i); only.push(texts[i].clone()); } }
                w = w.max(check(&only, &s.select(linformer::ndarray::Axis(0), &rows)));
            }
            println!("{:?} {shape}: {w:.1e}", (c.block, c.slots));
            assert!(w < 1e-10);
        }
    }
}
