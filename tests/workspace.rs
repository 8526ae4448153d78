//! Memory: what repeated calls allocate, and what the largest call takes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};

use linformer::ndarray::{Array2, Array3, s};
use linformer::training::Step;
use linformer::{
    AttentionKind, Convolution, ConvolutionKernel, Encoder, EncoderConfig, FeedForwardConfig, LinformerAttention, LinformerConfig,
    LocalGlobalConfig, NormPlacement, PaddingMask, Parameters, ProjectionKind, Sharing, TrainingPass, Workspace,
};

/// The system's allocator, watched.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static IN_USE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

fn count(bytes: isize) {
    CALLS.fetch_add(1, Ordering::SeqCst);
    let in_use = IN_USE.fetch_add(bytes, Ordering::SeqCst) + bytes;
    PEAK.fetch_max(in_use, Ordering::SeqCst);
}

#[allow(unsafe_code)] // an allocator cannot be had without
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size().cast_signed(), Ordering::SeqCst);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.cast_signed() - layout.size().cast_signed());
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: the counters are the process's.
static ALONE: Mutex<()> = Mutex::new(());

fn alone<R>(test: impl FnOnce() -> R) -> R {
    let _guard = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    test()
}

/// Allocations during `work`.
fn allocations(work: impl FnOnce()) -> usize {
    let before = CALLS.load(Ordering::SeqCst);
    work();
    CALLS.load(Ordering::SeqCst) - before
}

/// The most bytes in use during `work` beyond those before it.
fn extra_bytes(work: impl FnOnce()) -> isize {
    let before = IN_USE.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    work();
    PEAK.load(Ordering::SeqCst) - before
}

fn sequences(batch: usize, length: usize, dim: usize) -> Array3<f32> {
    Array3::from_shape_fn((batch, length, dim), |(b, t, i)| ((b * 31 + t * dim + i) as f32 * 0.734).sin())
}

fn encoders() -> Vec<(Encoder<f32>, usize, usize)> {
    let attention = |dim, n, k| LinformerConfig::new(dim, 4, n, k);
    let biased = attention(64, 300, 16).with_query_bias(true).with_key_value_bias(true, true);
    let pooled = |n| attention(64, n, 16).with_kind(ProjectionKind::AttentionPooling);
    let convolution = |kernel| attention(64, 300, 16).with_kind(ProjectionKind::Convolution(Convolution::new(kernel)));
    [
        (attention(16, 32, 4), 1, 1, 32),
        (attention(16, 32, 4).with_kind(ProjectionKind::Random), 3, 5, 20),
        (attention(64, 700, 16).with_sharing(Sharing::Layerwise), 2, 1, 700),
        (attention(64, 300, 16).with_sharing(Sharing::KeyValue), 2, 9, 300),
        (biased, 1, 2, 300),
        (attention(64, 300, 16).with_kind(ProjectionKind::MeanPooling), 2, 2, 300),
        (attention(64, 300, 16).with_kind(ProjectionKind::MaxPooling), 2, 2, 300),
        (pooled(300), 2, 2, 300),
        (pooled(700).with_kv_heads(2), 1, 9, 700),
        (attention(64, 300, 16).with_sharing(Sharing::None), 1, 2, 300),
        (attention(64, 700, 16).with_kv_heads(2).with_sharing(Sharing::None), 1, 1, 700),
        (convolution(ConvolutionKernel::Scalar), 2, 2, 300),
        (convolution(ConvolutionKernel::Depthwise), 1, 2, 300),
        (convolution(ConvolutionKernel::ChannelMixing), 1, 1, 300),
    ]
    .map(|(attention, depth, batch, length)| (AttentionKind::from(attention), depth, batch, length))
    .into_iter()
    .chain([
        (LocalGlobalConfig::new(16, 4).with_block(8).into(), 1, 1, 32),
        (LocalGlobalConfig::new(64, 4).with_slots(8).into(), 2, 2, 700),
        (LocalGlobalConfig::new(64, 4).with_kv_heads(2).with_slots(3).into(), 2, 9, 300),
    ])
    .flat_map(|(attention, depth, batch, length)| {
        [NormPlacement::Pre, NormPlacement::Post].map(|norm| {
            let config = EncoderConfig::new(attention.clone(), depth).with_norm(norm);
            (Encoder::new(&config, 0).unwrap(), batch, length)
        })
    })
    .collect()
}

/// In a pool of its own, since a call from outside it may make the pool's queue grow.
fn in_pool<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

#[test]
fn repeated_calls_do_not_allocate() {
    alone(|| {
        for threads in [1, 3] {
            in_pool(threads, || {
                for (encoder, batch, length) in encoders() {
                    let mut x = sequences(batch, length, encoder.config().dim());
                    let mut real = Array2::from_elem((batch, length), true);
                    // Ends of their own: with windows they have different numbers of slots.
                    for (item, mut real) in real.outer_iter_mut().enumerate() {
                        let end = if item % 2 == 1 { length / 40 + 1 } else { length - 3 };
                        real.slice_mut(s![end..]).fill(false);
                    }
                    let padded = PaddingMask::from_bools(&real);
                    real[[0, 1]] = false;
                    let holed = PaddingMask::from_bools(&real);
                    let mut workspace = Workspace::new();
                    let mut call = || {
                        for mask in [&padded, &holed] {
                            encoder.forward_in_place(&mut x, Some(mask), &mut workspace).unwrap();
                        }
                    };
                    (0..8).for_each(|_| call());
                    let quiet = if threads == 1 {
                        allocations(&mut call) == 0
                    } else {
                        // Which thread takes which item is chance: another one may still see its first.
                        (0..50).any(|_| allocations(&mut call) == 0)
                    };
                    assert!(quiet, "{threads} threads, batch {batch}, length {length}");
                }
            });
        }
    });
}

#[test]
fn a_layer_into_an_array_does_not_allocate() {
    alone(|| {
        in_pool(2, || {
            let layer = LinformerAttention::<f32>::new(&LinformerConfig::new(64, 4, 600, 32), 0).unwrap();
            let (x, mut out) = (sequences(2, 600, 64), Array3::zeros((2, 600, 64)));
            let mut workspace = Workspace::new();
            let mut call = || layer.forward_into(&x, None, &mut out, &mut workspace).unwrap();
            (0..8).for_each(|_| call());
            assert!((0..50).any(|_| allocations(&mut call) == 0));
        });
    });
}

#[test]
fn in_place_and_into_are_forward_bit_for_bit() {
    alone(|| {
        // One workspace for all of them, one after the other.
        let mut workspace = Workspace::new();
        for (encoder, batch, length) in encoders() {
            for length in [length, length / 2, 1] {
                let x = sequences(batch, length, encoder.config().dim());
                let lengths: Vec<usize> = (0..batch).map(|item| length - item % length.min(7)).collect();
                let mask = PaddingMask::from_lengths(&lengths, length).unwrap();
                for mask in [None, Some(&mask)] {
                    let expected = encoder.forward(&x, mask).unwrap();
                    let mut found = x.clone();
                    encoder.forward_in_place(&mut found, mask, &mut workspace).unwrap();
                    assert_eq!(found, expected);
                }
            }
        }
        let layer = LinformerAttention::<f32>::new(&LinformerConfig::new(24, 3, 50, 8), 0).unwrap();
        let x = sequences(3, 50, 24);
        let mut out = Array3::zeros(x.dim());
        layer.forward_into(&x, None, &mut out, &mut workspace).unwrap();
        assert_eq!(out, layer.forward(&x, None).unwrap());
    });
}

#[test]
fn batches_are_their_items_for_any_number_of_threads() {
    alone(|| {
        for (encoder, _, length) in encoders() {
            let x = sequences(17, length, encoder.config().dim());
            let expected = encoder.forward(&x, None).unwrap();
            for (item, expected) in expected.outer_iter().enumerate() {
                let alone = encoder.forward(&x.slice(s![item..=item, .., ..]), None).unwrap();
                assert_eq!(alone.index_axis(ndarray::Axis(0), 0), expected);
            }
            for threads in [1, 2, 5] {
                assert_eq!(in_pool(threads, || encoder.forward(&x, None).unwrap()), expected);
            }
        }
    });
}

/// 16 MiB and 8 MiB a thread beyond the stream, whatever n: packed weights are made by the first call.
#[test]
fn extra_memory_does_not_grow_with_the_sequence() {
    alone(|| {
        let threads = 2;
        in_pool(threads, || {
            let attention = LinformerConfig::new(256, 4, 40_000, 128).with_sharing(Sharing::Layerwise);
            let config = EncoderConfig::new(attention, 2).with_feed_forward(Some(FeedForwardConfig::new(512)));
            let encoder = Encoder::<f32>::new(&config, 0).unwrap();
            encoder.forward(&sequences(1, 600, 256), None).unwrap();
            let mut extra = Vec::new();
            for length in [5_000, 40_000] {
                let mut x = sequences(1, length, 256);
                extra.push(extra_bytes(|| {
                    encoder.forward_in_place(&mut x, None, &mut Workspace::new()).unwrap();
                }));
            }
            let most = (16 + 8 * threads.cast_signed()) << 20;
            assert!(extra.iter().all(|&extra| extra <= most), "{extra:?}");
            assert!(extra[1] <= extra[0] + (1 << 20), "{extra:?}");
        });
    });
}

/// Of a row, a block keeps four times its width and the hidden features, and the whole model no more than one width besides. Steps
/// after the first few find their memory where the last one left it.
#[test]
fn training_keeps_what_the_way_back_needs_and_no_more() {
    alone(|| {
        in_pool(1, || {
            let (dim, hidden, depth) = (64, 128, 3);
            let attention = LinformerConfig::new(dim, 4, 6_000, 16).with_sharing(Sharing::Layerwise);
            let config = EncoderConfig::new(attention, depth).with_feed_forward(Some(FeedForwardConfig::new(hidden)));
            let step = |encoder: &Encoder<f32>, gradients: &mut Encoder<f32>, x: &Array3<f32>| {
                let (y, cache) = encoder.forward_train(x, None, &TrainingPass::new(Step::new(0, 0))).unwrap();
                encoder.backward(cache, y, gradients).unwrap();
            };
            let mut taken = Vec::new();
            for length in [3_000, 6_000] {
                let (encoder, x) = (Encoder::new(&config, 0).unwrap(), sequences(1, length, dim));
                let mut gradients = encoder.zeros_like();
                taken.push(extra_bytes(|| step(&encoder, &mut gradients, &x)));
                (0..3).for_each(|_| step(&encoder, &mut gradients, &x));
                let before = IN_USE.load(Ordering::SeqCst);
                (0..3).for_each(|_| step(&encoder, &mut gradients, &x));
                assert_eq!(IN_USE.load(Ordering::SeqCst), before);
            }
            let a_row = (taken[1] - taken[0]).cast_unsigned() / 3_000 / size_of::<f32>();
            assert!(a_row <= depth * (4 * dim + hidden) + dim, "{a_row}");
        });
    });
}

#[test]
fn what_does_not_fit_is_an_error_and_changes_nothing() {
    alone(|| {
        let (encoder, _, _) = encoders().remove(0);
        let mut workspace = Workspace::new();
        for mut x in [sequences(1, 33, 16), sequences(1, 8, 12)] {
            let before = x.clone();
            assert!(encoder.forward_in_place(&mut x, None, &mut workspace).is_err());
            assert_eq!(x, before);
        }
        let mask = PaddingMask::from_lengths(&[4], 9).unwrap();
        assert!(
            encoder
                .forward_in_place(&mut sequences(1, 8, 16), Some(&mask), &mut workspace)
                .is_err()
        );
        let mut turned = sequences(1, 8, 16)
            .permuted_axes([0, 2, 1])
            .as_standard_layout()
            .into_owned()
            .permuted_axes([0, 2, 1]);
        assert!(encoder.forward_in_place(&mut turned, None, &mut workspace).is_err());
        let layer = LinformerAttention::<f32>::new(&LinformerConfig::new(16, 4, 32, 4), 0).unwrap();
        let x = sequences(1, 8, 16);
        assert!(
            layer
                .forward_into(&x, None, &mut Array3::zeros((1, 9, 16)), &mut workspace)
                .is_err()
        );
    });
}

#[test]
fn a_watcher_sees_every_row_of_every_block() {
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    static CALLED: AtomicBool = AtomicBool::new(false);
    alone(|| {
        let (encoder, batch, length) = encoders().remove(4);
        let mut workspace = Workspace::new().with_progress(|rows| {
            SEEN.fetch_add(rows, Ordering::SeqCst);
            CALLED.store(true, Ordering::SeqCst);
        });
        let mut x = sequences(batch, length, encoder.config().dim());
        encoder.forward_in_place(&mut x, None, &mut workspace).unwrap();
        assert!(CALLED.load(Ordering::SeqCst));
        assert_eq!(SEEN.load(Ordering::SeqCst), batch * length * encoder.config().depth);
    });
}

/// Tasks of a pool that need one thing which is made when it is first needed: none may wait for a thread that waits for it.
#[test]
fn one_compressed_sequence_serves_many_tasks_at_once() {
    use rayon::prelude::*;
    alone(|| {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let layer = LinformerAttention::<f32>::new(&LinformerConfig::new(256, 16, 600, 300), 0).unwrap();
            let document = layer.compress(&sequences(1, 600, 256), None).unwrap();
            let queries = sequences(1, 9, 256);
            let expected = layer.attend(&queries, &document).unwrap();
            in_pool(5, || {
                for _ in 0..200 {
                    let fresh = document.clone();
                    let same = (0..64).into_par_iter().all(|_| layer.attend(&queries, &fresh).unwrap() == expected);
                    assert!(same);
                }
            });
            sender.send(()).unwrap();
        });
        receiver
            .recv_timeout(std::time::Duration::from_mins(1))
            .expect("the tasks wait for each other");
    });
}

/// Many callers of one model: each gets what it would get alone, and no call leaves memory behind.
#[test]
fn ten_thousand_calls_of_eight_threads_are_the_serial_ones_in_flat_memory() {
    const CALLERS: usize = 8;
    const CALLS: usize = 10_000 / CALLERS;
    const LONGEST: usize = 40;
    let attention = LinformerConfig::new(16, 2, LONGEST, 8).with_sharing(Sharing::Layerwise);
    let encoder = Encoder::<f32>::new(&EncoderConfig::new(attention, 2), 0).unwrap();
    let inputs: Vec<Array3<f32>> = (0..=LONGEST).map(|length| sequences(1, length, 16)).collect();
    let alone_each: Vec<Array3<f32>> = inputs.iter().map(|x| encoder.forward(x, None).unwrap()).collect();
    let work = |caller: usize| {
        let mut state = caller as u64 + 1;
        for _ in 0..CALLS {
            // Lehmer's generator.
            state = state * 48_271 % 0x7fff_ffff;
            let length = usize::try_from(state).unwrap() % (LONGEST + 1);
            assert_eq!(encoder.forward(&inputs[length], None).unwrap(), alone_each[length]);
        }
    };
    let all = || {
        std::thread::scope(|scope| {
            for caller in 0..CALLERS {
                scope.spawn(move || work(caller));
            }
        });
    };
    alone(|| {
        let before = IN_USE.load(Ordering::SeqCst);
        let extra = extra_bytes(all);
        // What the threads keep for themselves, and what their calls have in use at one time: far less than a kilobyte a call.
        let left = IN_USE.load(Ordering::SeqCst) - before;
        assert!(left < 1 << 16, "{left} bytes are left");
        assert!(extra < 4 << 20, "{extra} bytes were in use at one time");
    });
}

#[cfg(feature = "checkpoint")]
#[test]
fn a_foreign_model_is_in_memory_once_beside_its_tensors() {
    use linformer::LanguageModel;
    use linformer::checkpoint::{lucidrains, tatp22};
    let options = lucidrains::Options::from_json(r#"{"num_tokens": 999, "dim": 64, "seq_len": 256, "depth": 4, "k": 64}"#).unwrap();
    let model = LanguageModel::<f32>::new(&options.language_model_config().unwrap(), 0).unwrap();
    let tensors = lucidrains::language_model_state_dict(&model).unwrap();
    let once = 4 * model.parameter_count().cast_signed();
    let loaded = alone(|| extra_bytes(|| drop(lucidrains::language_model(&tensors, &options).unwrap())));
    assert!(loaded < once + once / 8, "{loaded} bytes for a model of {once}");
    let json = r#"{"num_tokens": 999, "input_size": 256, "channels": 64, "dim_k": 64, "depth": 4, "parameter_sharing": "none"}"#;
    let options = tatp22::LinformerLMOptions::from_json(json).unwrap();
    let model = LanguageModel::<f32>::new(&options.language_model_config().unwrap(), 0).unwrap();
    let tensors = tatp22::language_model_state_dict(&model, &options).unwrap();
    let once = 4 * model.parameter_count().cast_signed();
    let loaded = alone(|| extra_bytes(|| drop(tatp22::language_model(&tensors, &options).unwrap())));
    assert!(loaded < once + once / 8, "{loaded} bytes for a model of {once}");
}
