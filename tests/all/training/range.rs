//! Nothing that is not finite gets into a model, its moments or the sums of its gradients.

use linformer::ndarray::{Array2, array};
use linformer::training::{Accumulation, AdamW, AdamWConfig, Optimizer, Sgd, SgdConfig};
use linformer::{Error, Linear, Parameters, Scalar};

fn weight<A: Scalar>(number: f64) -> Linear<A> {
    Linear::from_parts(Array2::from_elem((1, 3), A::cast(number)), Some(array![A::cast(0.5)])).unwrap()
}

/// Gradients whose last weight is `number`, the others 1e-3.
fn gradients<A: Scalar>(number: f64) -> Linear<A> {
    let [small, number] = [1e-3, number].map(A::cast);
    Linear::from_parts(array![[small, small, number]], Some(array![small])).unwrap()
}

fn numbers<A: Scalar>(model: &Linear<A>) -> Vec<f64> {
    let named = model.named().into_iter();
    named
        .flat_map(|(_, tensor)| tensor.iter().map(|x| x.widen()).collect::<Vec<_>>())
        .collect()
}

/// Does a step that must fail, and one that must succeed after it as if it had not been tried.
fn refused<A: Scalar, O: Optimizer<A> + Clone + std::fmt::Debug>(
    optimizer: &mut O,
    model: &mut Linear<A>,
    bad: &Linear<A>,
    lr: f64,
    tensor: &str,
) {
    let (before, kept) = (numbers(model), format!("{optimizer:?}"));
    match optimizer.step(model, bad, lr) {
        Err(Error::NonFiniteStep { step, tensor: found }) => {
            assert_eq!(found, tensor);
            assert_eq!(step, optimizer.steps() + 1);
        }
        other => panic!("{other:?} {tensor} {}", A::NAME),
    }
    assert_eq!((numbers(model), format!("{optimizer:?}")), (before, kept));
}

/// A number as near to the end of the range of either type as 1e38 is to that of f32.
fn near<A: Scalar>(exponent: i32) -> f64 {
    if A::NAME == "F32" {
        10_f64.powi(exponent)
    } else {
        10_f64.powi(exponent * 8)
    }
}

fn one_huge_gradient<A: Scalar>() {
    for sign in [1.0, -1.0] {
        let mut model = weight::<A>(1.0);
        let mut optimizer = AdamW::new(&model, AdamWConfig::new()).unwrap();
        optimizer.step(&mut model, &gradients(1.0), 0.1).unwrap();
        for lr in [0.0, 0.1] {
            refused(&mut optimizer, &mut model, &gradients(sign * near::<A>(21)), lr, "moment2.weight");
        }
        optimizer.step(&mut model, &gradients(2.0), 0.1).unwrap();
        let mut other = weight::<A>(1.0);
        let mut fresh = AdamW::new(&other, AdamWConfig::new()).unwrap();
        fresh.step(&mut other, &gradients(1.0), 0.1).unwrap();
        fresh.step(&mut other, &gradients(2.0), 0.1).unwrap();
        assert_eq!(numbers(&model), numbers(&other));

        let largest = sign * A::max_value().widen() * 0.8;
        for (nesterov, lr) in [(false, 1e-38), (true, 0.0)] {
            let mut model = weight::<A>(1.0);
            let mut optimizer = Sgd::new(&model, SgdConfig::new().with_momentum(0.9).with_nesterov(nesterov)).unwrap();
            optimizer
                .step(&mut model, &gradients(largest / if nesterov { 2.0 } else { 1.0 }), 0.0)
                .unwrap();
            if nesterov {
                // The velocity is finite, but not what the step looks ahead to.
                let mut model = weight::<A>(1.0);
                refused(&mut optimizer, &mut model, &gradients(largest / 1.6), lr, "weight");
            } else {
                refused(&mut optimizer, &mut model, &gradients(largest), lr, "moment1.weight");
            }
        }
    }
}

#[test]
fn one_huge_gradient_changes_nothing() {
    one_huge_gradient::<f32>();
    one_huge_gradient::<f64>();
}

fn parameters_out_of_range<A: Scalar>() {
    let huge = A::max_value().widen();
    // A parameter at the end of the range, and a step beyond it.
    let mut model = weight::<A>(-huge);
    let mut sgd = Sgd::new(&model, SgdConfig::new()).unwrap();
    refused(&mut sgd, &mut model, &gradients(huge / 8.0), 0.5, "weight");
    // A step that is lost in its last place is none.
    sgd.step(&mut model, &gradients(1.0), 0.5).unwrap();
    assert_eq!(model.weight()[[0, 2]].widen(), -huge);
    let mut adamw = AdamW::new(&model, AdamWConfig::new().with_weight_decay(0.0)).unwrap();
    refused(&mut adamw, &mut model, &gradients(1.0), huge / 4.0, "weight");
    adamw.step(&mut model, &gradients(1.0), 1e-3).unwrap();
    // Decays that turn parameters over and let them grow.
    let decay = near::<A>(20);
    let mut model = weight::<A>(1.0);
    let mut adamw = AdamW::new(&model, AdamWConfig::new().with_weight_decay(decay)).unwrap();
    refused(&mut adamw, &mut model, &gradients(1.0), decay, "weight");
    for momentum in [0.0, 0.5] {
        let mut sgd = Sgd::new(&model, SgdConfig::new().with_momentum(momentum).with_weight_decay(decay)).unwrap();
        refused(&mut sgd, &mut model, &gradients(1.0), decay, "weight");
        let mut large = weight::<A>(decay);
        refused(
            &mut sgd,
            &mut large,
            &gradients(1.0),
            0.0,
            if momentum > 0.0 { "moment1.weight" } else { "weight" },
        );
    }
}

#[test]
fn parameters_stay_finite() {
    parameters_out_of_range::<f32>();
    parameters_out_of_range::<f64>();
}

#[test]
fn numbers_that_f32_cannot_hold_are_refused() {
    let mut model = weight::<f32>(1.0);
    for bad in [1e39, f64::MAX] {
        let adamw = AdamW::new(&model, AdamWConfig::new().with_weight_decay(bad));
        assert!(matches!(
            adamw,
            Err(Error::Config {
                option: "weight_decay",
                ..
            })
        ));
        let sgd = Sgd::new(&model, SgdConfig::new().with_weight_decay(bad));
        assert!(matches!(
            sgd,
            Err(Error::Config {
                option: "weight_decay",
                ..
            })
        ));
        let mut sgd = Sgd::new(&model, SgdConfig::new()).unwrap();
        assert!(matches!(sgd.step(&mut model, &gradients(0.0), bad), Err(Error::Argument { .. })));
        assert_eq!(sgd.steps(), 0);
    }
    let wide = weight::<f64>(1.0);
    assert!(AdamW::new(&wide, AdamWConfig::new().with_weight_decay(1e39)).is_ok());
    assert!(Sgd::new(&wide, SgdConfig::new().with_weight_decay(1e39)).is_ok());
    // A rate that is finite, but not what corrects the first moment with it.
    let mut adamw = AdamW::new(&model, AdamWConfig::new()).unwrap();
    let mut still = Linear::from_parts(array![[1.0_f32]], None).unwrap();
    let mut of_still = AdamW::new(&still, AdamWConfig::new()).unwrap();
    let zeros = still.zeros_like();
    assert!(matches!(of_still.step(&mut still, &zeros, 3e38), Err(Error::NonFiniteStep { .. })));
    refused(&mut adamw, &mut model, &gradients(1.0), 3e38, "weight");
}

/// Steps of all magnitudes: each changes nothing or leaves nothing but finite numbers.
#[allow(clippy::too_many_lines)] // one sweep
fn sweep<A: Scalar, O: Optimizer<A> + std::fmt::Debug>(make: impl Fn(&Linear<A>) -> Option<O>) -> [usize; 2] {
    let (mut done, mut failed) = (0, 0);
    for start in [0.0, 1.0, near::<A>(20), -0.9 * A::max_value().widen()] {
        for lr in [0.0, 1e-3, 1.0, near::<A>(15), near::<A>(38)] {
            for first in [0.0, 1.0, near::<A>(-30), near::<A>(17), near::<A>(19), near::<A>(25), near::<A>(38)] {
                let mut model = weight::<A>(start);
                let Some(mut optimizer) = make(&model) else { continue };
                for gradient in [first, first, -first, 1.0, first] {
                    let (before, kept) = (numbers(&model), format!("{optimizer:?}"));
                    match optimizer.step(&mut model, &gradients(gradient), lr) {
                        Ok(()) => done += 1,
                        Err(Error::NonFiniteStep { .. }) => {
                            failed += 1;
                            assert_eq!((numbers(&model), format!("{optimizer:?}")), (before, kept));
                        }
                        other => panic!("{other:?}"),
                    }
                    assert!(numbers(&model).iter().all(|number| number.is_finite()), "{start} {lr} {gradient}");
                    let kept = format!("{optimizer:?}");
                    assert!(!kept.contains("inf") && !kept.contains("NaN"), "{start} {lr} {gradient} {kept}");
                }
            }
        }
    }
    [done, failed]
}

fn sweeps<A: Scalar>() {
    for decay in [0.0, 0.01, 1.0, 1e30] {
        for eps in [1e-8, near::<A>(-30)] {
            for beta in [0.0, 0.9] {
                let config = AdamWConfig::new().with_weight_decay(decay).with_betas((beta, 0.999)).with_eps(eps);
                let [done, failed] = sweep::<A, _>(|model| AdamW::new(model, config.clone()).ok());
                assert!(done > 50 && failed > 10, "{done} {failed}");
            }
        }
        for (momentum, nesterov) in [(0.0, false), (0.9, false), (0.9, true)] {
            let config = SgdConfig::new()
                .with_weight_decay(decay)
                .with_momentum(momentum)
                .with_nesterov(nesterov);
            let [done, failed] = sweep::<A, _>(|model| Sgd::new(model, config.clone()).ok());
            assert!(done > 50 && failed > 10, "{done} {failed}");
        }
    }
}

#[test]
fn steps_of_all_magnitudes() {
    sweeps::<f32>();
    sweeps::<f64>();
}

/// Large tensors are cut into pieces, the last of which alone is at fault; and tensors that are views in another order.
#[test]
fn the_last_piece_is_looked_at() {
    let mut model = Linear::<f32>::new(300, 300, true, 0).unwrap();
    let mut bad = model.zeros_like();
    bad.visit_mut("", &mut |_, _, mut tensor| *tensor.iter_mut().last().unwrap() = 1e21);
    let mut optimizer = AdamW::new(&model, AdamWConfig::new()).unwrap();
    refused(&mut optimizer, &mut model, &bad, 1e-3, "moment2.weight");
    let config = AdamWConfig::new().with_frozen(vec!["weight".into()]);
    let mut optimizer = AdamW::new(&model, config).unwrap();
    refused(&mut optimizer, &mut model, &bad, 1e-3, "moment2.bias");
}

#[test]
fn weights_that_the_element_type_cannot_hold() {
    let one = || Linear::from_parts(array![[1.0_f32]], None).unwrap();
    for bad in [1e39, 1e-46, 1e-40, 1e300, 3.4e38, f64::NAN, f64::INFINITY, -1.0] {
        let mut batches = Accumulation::new();
        batches.add(2.0, one(), 1.0).unwrap();
        assert!(matches!(batches.add(5.0, one(), bad), Err(Error::Argument { .. })), "{bad:e}");
        assert!(
            matches!(Accumulation::new().add(5.0, one(), bad), Err(Error::Argument { .. })),
            "{bad:e}"
        );
        let (loss, mean) = batches.finish().unwrap();
        assert_eq!((loss, mean.weight()[[0, 0]]), (2.0, 1.0));
    }
    let wide = || Linear::from_parts(array![[1.0_f64]], None).unwrap();
    for good in [1e39, 1e-46, 1e300] {
        let mut batches = Accumulation::new();
        batches.add(2.0, wide(), good).unwrap();
        let (loss, mean) = batches.finish().unwrap();
        assert!((loss - 2.0).abs() < 1e-12 && (mean.weight()[[0, 0]] - 1.0).abs() < 1e-12);
    }
}

#[test]
fn sums_of_gradients_stay_finite() {
    let of = |x: f32| Linear::from_parts(array![[x, 1.0]], Some(array![0.0])).unwrap();
    let mut batches = Accumulation::new();
    batches.add(1.0, of(2e38), 1.0).unwrap();
    for (bad, weight) in [(f32::NAN, 1.0), (f32::INFINITY, 1.0), (f32::NEG_INFINITY, 1e-3)] {
        match batches.add(1.0, of(bad), weight) {
            Err(Error::Argument { reason, .. }) => assert!(reason.contains("`weight`"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    // Numbers that cancel out are no reason to refuse them, nor are sums that f32 cannot hold: they are kept in f64.
    batches.add(3.0, of(-2e38), 1.0).unwrap();
    let (loss, mean) = batches.finish().unwrap();
    assert_eq!((loss, mean.weight()[[0, 0]], mean.weight()[[0, 1]]), (2.0, 0.0, 1.0));
    // Losses whose weighted sum f64 cannot hold.
    let wide = Linear::from_parts(array![[1.0_f64]], None).unwrap();
    assert!(Accumulation::new().add(1e10, wide, 1e305).is_err());
}
