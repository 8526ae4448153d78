//! Whatever is passed to a public constructor or method, it is a result or an error, never a panic.
//!
//! Sizes are small or far too large, so that what is accepted is quick; numbers are often none.

mod configs;
mod decoders;
#[cfg(feature = "checkpoint")]
mod tensors;

use self::configs::{attention, causal, classifier, encoder, language_model, linformer, local_global, number, size};
use crate::common::sequence;
use linformer::ndarray::{Array2, Array3, Axis, ShapeBuilder};
use linformer::training::{
    AdamW, AdamWConfig, CrossEntropy, MeanSquaredError, Optimizer, Schedule, Sgd, SgdConfig, Step, TokenBatch, TokenMasking, Trainable,
};
use linformer::{
    BlockwiseCausalAttention, Classifier, ContextOverflow, Embedding, Encoder, EncoderBlock, ExactAttention, FeedForward,
    FeedForwardConfig, GenerationConfig, LanguageModel, LayerNorm, Linear, LinformerAttention, LocalGlobalAttention, Order, PaddingMask,
    Parameters, Position, PositionKind, SequenceLengths, TrainingPass, Workspace, batched_matmul,
};
use proptest::prelude::*;
use proptest::sample::select;

/// A sequence of some layout, with numbers that are none where `wild` says so.
#[derive(Clone, Debug)]
struct Input {
    batch: usize,
    length: usize,
    /// How much wider than it should be, or narrower.
    widths: (usize, usize),
    layout: u8,
    wild: Option<(usize, f64)>,
}

fn input() -> impl Strategy<Value = Input> {
    let widths = prop_oneof![8 => Just((0, 0)), 1 => Just((1, 0)), 1 => Just((0, 1))];
    let wild = prop::option::of((
        0..200_usize,
        select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e308, -1e308, 1e-320]),
    ));
    (0..=3_usize, 0..=11_usize, widths, 0..4_u8, wild).prop_map(|(batch, length, widths, layout, wild)| Input {
        batch,
        length,
        widths,
        layout,
        wild,
    })
}

impl Input {
    fn array(&self, dim: usize) -> Array3<f64> {
        let width = dim.saturating_add(self.widths.0).saturating_sub(self.widths.1).min(64);
        let shape = (self.batch, self.length, width);
        let mut x = match self.layout {
            0 => sequence(shape, 1),
            1 => Array3::from_shape_fn(shape.f(), |(b, t, i)| ((b * 7 + t * 3 + i) as f64).sin()),
            2 => {
                let mut x = sequence(shape, 2);
                x.invert_axis(Axis(1));
                x
            }
            _ => sequence((width, self.length, self.batch), 3).reversed_axes(),
        };
        let count = x.len();
        if let Some((place, value)) = self.wild
            && let Some(x) = x.iter_mut().nth(place % count.max(1))
        {
            *x = value;
        }
        x
    }

    fn tokens(&self, vocab_size: usize) -> Array2<usize> {
        Array2::from_shape_fn((self.batch, self.length), |(b, t)| {
            (b * 5 + t * 3) % vocab_size.clamp(1, 50) + self.widths.0
        })
    }
}

/// A mask that fits, one that does not, or none.
#[derive(Clone, Debug)]
enum Mask {
    None,
    Bits(u64),
    Lengths(Vec<usize>),
    Wrong,
}

fn mask() -> impl Strategy<Value = Mask> {
    prop_oneof![
        3 => Just(Mask::None),
        3 => any::<u64>().prop_map(Mask::Bits),
        2 => prop::collection::vec(0..12_usize, 3).prop_map(Mask::Lengths),
        1 => Just(Mask::Wrong),
    ]
}

impl Mask {
    fn of(&self, input: &Input) -> Option<PaddingMask> {
        let (batch, length) = (input.batch, input.length);
        match self {
            Self::None => None,
            Self::Bits(bits) => {
                let real = Array2::from_shape_fn((batch, length), |(b, t)| bits >> ((b * 13 + t) % 64) & 1 == 1);
                Some(PaddingMask::from_bools(&real))
            }
            Self::Lengths(lengths) => {
                let lengths: Vec<usize> = lengths[..batch].iter().map(|&own| own.min(length)).collect();
                Some(PaddingMask::from_lengths(&lengths, length).unwrap())
            }
            Self::Wrong => Some(PaddingMask::all_real(batch + 1, length).unwrap()),
        }
    }
}

fn pass() -> impl Strategy<Value = TrainingPass> {
    (number(), number(), number(), number(), number(), any::<bool>(), any::<u64>()).prop_map(|(a, b, c, d, e, checkpoints, index)| {
        TrainingPass::new(Step::new(index / 3, index))
            .with_attention_dropout(a)
            .with_residual_dropout(b)
            .with_activation_dropout(c)
            .with_embedding_dropout(d)
            .with_layer_drop(e)
            .with_gradient_checkpointing(checkpoints)
    })
}

/// Steps, clips and averages with gradients that may be none.
fn optimize<M: Parameters<f64> + Clone>(model: &mut M, mut gradients: M, a: f64, b: f64) {
    let adamw = AdamWConfig::new()
        .with_betas((a, b))
        .with_eps(b)
        .with_weight_decay(a)
        .with_frozen(vec!["encoder".to_owned()]);
    let sgd = SgdConfig::new().with_momentum(a).with_nesterov(b > 0.1).with_weight_decay(b);
    for config in [adamw, AdamWConfig::new()] {
        if let Ok(mut optimizer) = AdamW::new(model, config) {
            let _ = optimizer.clip_gradient_norm(&mut gradients, b);
            let _ = optimizer.step(model, &gradients, a);
        }
    }
    if let Ok(mut optimizer) = Sgd::new(model, sgd) {
        let _ = optimizer.step(model, &gradients, a);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn linformer_layers(config in linformer(), input in input(), mask in mask(), new_len in size()) {
        let Ok(layer) = LinformerAttention::<f64>::new(&config, 1) else { return Ok(()) };
        let (x, mask) = (input.array(config.attention.dim), mask.of(&input));
        let mut out = Array3::zeros(x.dim());
        let _ = layer.forward_into(&x, mask.as_ref(), &mut out, &mut Workspace::new());
        if let Ok(y) = layer.forward(&x, mask.as_ref()) {
            prop_assert_eq!(y.dim(), x.dim());
        }
        if let Ok(context) = layer.compress(&x, mask.as_ref()) {
            let _ = layer.attention_map(&x, &context);
            let _ = layer.effective_map(&x, &context, &PaddingMask::all_real(input.batch, input.length).unwrap());
        }
        if let Ok((y, cache)) = layer.forward_train(&x, mask.as_ref()) {
            prop_assert!(layer.backward(cache.clone(), y.clone(), &mut layer.zeros_like()).is_ok());
        }
        if let Ok((y, cache)) = layer.forward_train_cross(&input.array(config.attention.dim), &x, mask.as_ref()) {
            prop_assert!(layer.backward_cross(cache.clone(), y.clone(), &mut layer.zeros_like()).is_ok());
        }
        let _ = layer.extended(new_len);
        let _ = ExactAttention::from_linformer(&layer).forward(&x, mask.as_ref());
    }

    #[test]
    fn exact_and_causal_layers(exact in attention(), causal in causal(), input in input(), mask in mask()) {
        if let Ok(layer) = ExactAttention::<f64>::new(&exact, 1) {
            let (x, mask) = (input.array(exact.dim), mask.of(&input));
            let y = layer.forward(&x, mask.as_ref());
            prop_assert!(!y.is_ok_and(|y| y.dim() != x.dim()));
            let _ = layer.attend(&x.slice(linformer::ndarray::s![.., ..input.length / 2, ..]), &x, mask.as_ref());
            let _ = layer.forward_materialized(&x, mask.as_ref());
            let _ = layer.attention_map(&x, &x, mask.as_ref());
            if let Ok((y, cache)) = layer.forward_train(&x, mask.as_ref()) {
                prop_assert!(layer.backward(cache.clone(), y.clone(), &mut layer.zeros_like()).is_ok());
            }
        }
        if let Ok(layer) = BlockwiseCausalAttention::<f64>::new(&causal, 1) {
            let (x, mask) = (input.array(causal.attention.dim), mask.of(&input));
            let y = layer.forward(&x, mask.as_ref());
            prop_assert!(!y.is_ok_and(|y| y.dim() != x.dim()));
            if let Ok((y, cache)) = layer.forward_train(&x, mask.as_ref()) {
                prop_assert!(layer.backward(cache.clone(), y.clone(), &mut layer.zeros_like()).is_ok());
            }
        }
    }

    #[test]
    fn local_global_layers(config in local_global(), input in input(), mask in mask()) {
        let Ok(layer) = LocalGlobalAttention::<f64>::new(&config, 1) else { return Ok(()) };
        let (x, mask) = (input.array(config.attention.dim), mask.of(&input));
        let y = layer.forward(&x, mask.as_ref());
        prop_assert!(!y.is_ok_and(|y| y.dim() != x.dim()));
        let mut out = Array3::zeros(x.dim());
        let _ = layer.forward_into(&x, mask.as_ref(), &mut out, &mut Workspace::new());
        let _ = layer.effective_map(&x, mask.as_ref());
        if let Ok((y, cache)) = layer.forward_train(&x, mask.as_ref()) {
            prop_assert!(layer.backward(cache, y, &mut layer.zeros_like()).is_ok());
        }
    }

    #[test]
    fn compressors(
        config in linformer(), inputs in prop::collection::vec((input(), mask()), 1..4), lengths in prop::option::of(size()),
        offsets in (0..12_usize, select(vec![0, 3, usize::MAX, usize::MAX - 5])), order in any::<bool>(), position in size(),
    ) {
        let Ok(layer) = LinformerAttention::<f64>::new(&config, 1) else { return Ok(()) };
        let batch = inputs[0].0.batch;
        let order = if order { Order::CompressFirst } else { Order::ProjectFirst };
        let new = || {
            let compressor = layer.compressor_in_order(batch, order)?;
            match lengths {
                Some(length) => compressor.with_lengths(if length % 2 == 0 { SequenceLengths::Equal(length) } else { SequenceLengths::PerItem(vec![length; batch]) }),
                None => Ok(compressor),
            }
        };
        for offset in [offsets.0, offsets.1] {
            let Ok(mut compressor) = new() else { return Ok(()) };
            for (input, mask) in &inputs {
                let before = compressor.clone();
                if compressor.push(&input.array(config.attention.dim), mask.of(input).as_ref()).is_err() {
                    compressor = before;
                }
            }
            if let Ok(mut other) = new().and_then(|other| other.starting_at(offset)) {
                let _ = other.push(&inputs[0].0.array(config.attention.dim), None);
                let _ = compressor.merge(other);
            }
            let row = Array2::zeros((batch, config.attention.dim));
            let _ = compressor.replace(position, &row, &row);
            let _ = compressor.finish();
        }
    }

    #[test]
    fn encoders(config in encoder(), input in input(), mask in mask(), pass in pass()) {
        let Ok(model) = Encoder::<f64>::new(&config, 1) else {
            prop_assert!(config.check().is_err());
            return Ok(());
        };
        let (mut x, mask) = (input.array(config.dim()), mask.of(&input));
        let y = model.forward(&x, mask.as_ref());
        prop_assert!(!y.is_ok_and(|y| y.dim() != x.dim()));
        if let Ok((y, cache)) = model.forward_train(&x, mask.as_ref(), &pass) {
            prop_assert!(model.backward(cache, y, &mut model.zeros_like()).is_ok());
        }
        let _ = model.forward_in_place(&mut x, mask.as_ref(), &mut Workspace::new());
        if let Ok(block) = EncoderBlock::<f64>::new(&config, 1) {
            let _ = block.forward(&x, mask.as_ref());
        }
    }

    #[test]
    fn language_models(config in language_model(), input in input(), mask in mask(), pass in pass(), a in number(), b in number(), ask in 0..12_usize) {
        let Ok(mut model) = LanguageModel::<f64>::new(&config, 1) else {
            prop_assert!(config.check().is_err());
            return Ok(());
        };
        let (tokens, mask) = (input.tokens(config.vocab_size), mask.of(&input));
        let _ = model.forward(&tokens, mask.as_ref());
        let _ = model.features(&tokens, mask.as_ref());
        let positions = vec![vec![ask, 0]; input.batch];
        let _ = model.logits_at(&tokens, &positions, mask.as_ref());
        let _ = model.logits_at(&tokens, &positions[..input.batch / 2], mask.as_ref());
        if let Ok((y, cache)) = model.forward_train(&tokens, Some(&positions), mask.as_ref(), &pass) {
            prop_assert!(model.backward(cache, y.clone(), &mut model.zeros_like()).is_ok());
        }
        let targets: Vec<Option<usize>> = tokens.iter().map(|&token| (token % 3 > 0).then_some(token)).collect();
        let loss = CrossEntropy::new().with_label_smoothing(a);
        if let Ok((_, gradients)) = model.loss_and_gradients(&TokenBatch::new(&tokens, &targets).with_mask(mask.as_ref()), &loss, &pass) {
            optimize(&mut model, gradients, a, b);
        }
    }

    #[test]
    fn generation(
        config in language_model(), prompts in prop::collection::vec(prop::collection::vec(0..6_usize, 0..6), 0..3), numbers in (number(), number(), number()),
        top_k in prop::option::of(size()), context in prop::option::of(size()), slides in any::<bool>(), greedy in any::<bool>(), step in prop::option::of(size()),
        stop in prop_oneof![9 => 0..3_usize, 1 => Just(usize::MAX)],
    ) {
        let Ok(model) = LanguageModel::<f64>::new(&config, 1) else { return Ok(()) };
        let (temperature, top_p, penalty) = numbers;
        let plain = GenerationConfig::new(usize::MAX).with_max_context(context).with_overflow(if slides { ContextOverflow::Slide } else { ContextOverflow::Error });
        let generation = if greedy {
            plain
        } else {
            plain.with_temperature(temperature).with_top_p(Some(top_p)).with_top_k(top_k).with_repetition_penalty(penalty).with_stop_tokens(vec![2, stop])
        };
        if let Ok(texts) = model.generate(&prompts, &generation) {
            for step in texts.take(9) {
                let _ = step;
            }
        }
        if let Ok((_, mut state)) = model.prefill(&prompts) {
            for _ in 0..3 {
                let _ = model.step(&mut state, &vec![step; prompts.len()]);
            }
        }
    }

    #[test]
    fn classifiers(config in classifier(), input in input(), mask in mask(), pass in pass()) {
        let Ok(model) = Classifier::<f64>::new(&config, 1) else {
            prop_assert!(config.check().is_err());
            return Ok(());
        };
        let mask = mask.of(&input);
        let (tokens, features) = (input.tokens(5), input.array(5));
        let _ = model.forward(&tokens, mask.as_ref());
        let _ = model.forward(&features, mask.as_ref());
        let trained = [
            model.forward_train(&tokens, mask.as_ref(), &pass),
            model.forward_train(&features, mask.as_ref(), &pass),
        ];
        for (y, cache) in trained.into_iter().flatten() {
            prop_assert!(model.backward(cache, y.clone(), &mut model.zeros_like()).is_ok());
        }
    }

    #[test]
    fn single_layers(sizes in (size(), size(), size()), input in input(), gated in any::<bool>(), position in 0..7_u8, base in number()) {
        let (a, b, c) = sizes;
        let x = input.array(a.min(40));
        if let Ok(layer) = Linear::<f64>::new(a, b, gated, 1) {
            let _ = layer.forward(&x);
        }
        // Sizes that no constructor of a model accepts.
        let (a0, b0) = (a.min(5), b.min(5));
        let bias = gated.then(|| linformer::ndarray::Array1::zeros(c.min(5)));
        if let Ok(layer) = Linear::<f64>::from_parts(Array2::zeros((b0, a0).f()), bias) {
            let _ = layer.forward(&x);
        }
        let _ = Embedding::<f64>::from_weight(Array2::zeros((b0, a0))).forward(&input.tokens(5));
        if let Ok(layer) = Embedding::<f64>::new(a, b, 1) {
            let _ = layer.forward(&input.tokens(5));
        }
        if let Ok(layer) = LayerNorm::<f64>::new(a, base) {
            let _ = layer.forward(&x);
        }
        if let Ok(layer) = FeedForward::<f64>::new(a, b, &FeedForwardConfig::new(c).with_gated(gated), 1) {
            let _ = layer.forward(&x);
        }
        let kind = match position {
            0 => PositionKind::None,
            1 => PositionKind::Learned { max_len: b },
            2 => PositionKind::LearnedAfterPadding { max_len: b, padding_token: c },
            5 => PositionKind::LearnedRepeating { max_len: b, padding_token: None },
            6 => PositionKind::LearnedRepeating { max_len: b, padding_token: Some(c) },
            other => PositionKind::Sinusoidal { base, layout: linformer::SinusoidLayout::Halves, stored: other == 3 },
        };
        if let Ok(layer) = Position::<f64>::new(kind, a, 1) {
            let _ = layer.forward(&x, None);
            let _ = layer.forward(&x, Some(&input.tokens(5)));
            let _ = layer.forward(&x, Some(&input.tokens(5).reversed_axes()));
        }
        let other = input.array(b.min(40)).permuted_axes([0, 2, 1]);
        let _ = batched_matmul(&x, &other);
        let _ = batched_matmul(&x, &x);
        let _ = PaddingMask::from_lengths(&[a, b], c.min(40));
        let _ = PaddingMask::from_lengths(&vec![0; a.min(4)], usize::MAX);
        let _ = TokenMasking::new(a.min(40), b, &[c]).and_then(|masking| masking.corrupt(&input.tokens(5), None, Step::new(1, 2)));
    }

    #[test]
    fn losses_and_schedules(rows in 0..4_usize, classes in 0..4_usize, target in prop::option::of(size()), numbers in (number(), number()), steps in any::<(u64, u64, u64)>()) {
        let (a, b) = numbers;
        let logits = Array2::from_shape_fn((rows, classes), |(row, class)| if (row + class) % 2 == 0 { a } else { b });
        let loss = CrossEntropy::new().with_label_smoothing(a);
        let _ = loss.loss(&logits, &vec![target; rows]);
        let _ = loss.loss_and_gradient(logits.clone(), &vec![target; classes]);
        let _ = loss.loss_and_gradient(logits.clone().reversed_axes(), &vec![target; classes]);
        let _ = MeanSquaredError::new().loss_and_gradient(&logits, &logits.t().to_owned());
        let _ = MeanSquaredError::new().loss_and_gradient(&logits, &logits);
        for schedule in [Schedule::constant(a), Schedule::linear(a, steps.0), Schedule::cosine(b, steps.0), Schedule::inverse_square_root(b)] {
            let _ = schedule.with_warmup(steps.1).at(steps.2);
        }
        let _ = TokenMasking::new(5, 1, &[]).and_then(|masking| masking.with_shares(a, b, a));
    }
}
