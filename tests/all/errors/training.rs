//! Losses, masking of tokens and optimizers.
#![allow(clippy::float_cmp)] // what is compared so is exact

use crate::training::masking::{VOCABULARY, masking, tokens};
use crate::training::optimizers::changed;
use linformer::ndarray::{Array2, array};
use linformer::training::{AdamW, AdamWConfig, CrossEntropy, MeanSquaredError, Optimizer, Sgd, SgdConfig, Step, TokenMasking};
use linformer::{Error, Linear, PaddingMask, Parameters};

#[test]
fn losses() {
    let loss = CrossEntropy::new();
    let logits = Array2::<f32>::zeros((3, 4));
    let result = loss.loss(&logits, &[Some(0), None, Some(4)]);
    assert!(
        matches!(
            result,
            Err(Error::Class {
                class: 4,
                row: 2,
                classes: 4
            })
        ),
        "{result:?}"
    );
    assert!(matches!(loss.loss_and_gradient(logits.clone(), &[None]), Err(Error::Shape { .. })));
    assert!(loss.loss(&Array2::<f32>::zeros((1, 0)), &[Some(0)]).is_err());
    for smoothing in [-0.1, 1.1, f64::NAN] {
        let result = loss.with_label_smoothing(smoothing).loss(&logits, &[None; 3]);
        assert!(matches!(
            result,
            Err(Error::Config {
                option: "label_smoothing",
                ..
            })
        ));
    }
    let result = MeanSquaredError::new().loss(&array![1.0, 2.0], &array![1.0]);
    assert!(matches!(result, Err(Error::Shape { .. })));
    assert!(matches!(
        Step::new(1, 9).finite_loss(f64::NAN),
        Err(Error::NonFiniteLoss { step: 9, .. })
    ));
    assert_eq!(Step::new(1, 9).finite_loss(2.0).unwrap(), 2.0);
}

#[test]
fn masking_of_tokens() {
    assert!(TokenMasking::new(10, 10, &[]).is_err());
    assert!(TokenMasking::new(10, 9, &[0, 10]).is_err());
    assert!(TokenMasking::new(0, 0, &[]).is_err());
    let bad = array![[1, 2], [3, VOCABULARY]];
    let result = masking().corrupt(&bad, None, Step::new(0, 0));
    assert!(matches!(
        result,
        Err(Error::Token {
            token: VOCABULARY,
            item: 1,
            position: 1,
            ..
        })
    ));
    let mask = PaddingMask::from_lengths(&[1], 2).unwrap();
    assert!(masking().corrupt(&tokens(2, 2), Some(&mask), Step::new(0, 0)).is_err());
    // Only special tokens, and none at all.
    let special = TokenMasking::new(2, 0, &[1]).unwrap().with_shares(1.0, 0.0, 1.0).unwrap();
    assert!(special.corrupt(&array![[0, 1]], None, Step::new(0, 0)).unwrap().targets.is_empty());
    assert!(
        masking()
            .corrupt(&tokens(0, 5), None, Step::new(0, 0))
            .unwrap()
            .positions
            .is_some_and(|positions| positions.is_empty())
    );
}

#[test]
fn options_of_optimizers() {
    let model = Linear::<f32>::new(2, 2, true, 0).unwrap();
    let adamw = |config: AdamWConfig| match AdamW::new(&model, config) {
        Err(Error::Config { option, .. }) => option,
        other => panic!("{other:?}"),
    };
    assert_eq!(adamw(AdamWConfig::new().with_betas((1.0, 0.9))), "betas");
    assert_eq!(adamw(AdamWConfig::new().with_betas((0.9, f64::NAN))), "betas");
    assert_eq!(adamw(AdamWConfig::new().with_eps(0.0)), "eps");
    assert_eq!(adamw(AdamWConfig::new().with_eps(1e-60)), "eps");
    assert_eq!(adamw(AdamWConfig::new().with_weight_decay(-1.0)), "weight_decay");
    assert_eq!(adamw(AdamWConfig::new().with_frozen(vec!["weigh".into()])), "frozen");
    let sgd = |config: SgdConfig| match Sgd::new(&model, config) {
        Err(Error::Config { option, .. }) => option,
        other => panic!("{other:?}"),
    };
    assert_eq!(sgd(SgdConfig::new().with_momentum(1.0)), "momentum");
    assert_eq!(sgd(SgdConfig::new().with_nesterov(true)), "nesterov");
    assert_eq!(sgd(SgdConfig::new().with_weight_decay(f64::INFINITY)), "weight_decay");
}

#[test]
fn another_model_or_rate_is_refused() {
    let mut model = Linear::<f32>::new(2, 2, true, 0).unwrap();
    let before = model.clone();
    let mut optimizer = Sgd::new(&model, SgdConfig::new()).unwrap();
    for (in_dim, bias) in [(2, false), (3, true)] {
        let mut other = Linear::<f32>::new(in_dim, 2, bias, 0).unwrap();
        let zeros = other.zeros_like();
        assert!(matches!(optimizer.step(&mut other, &zeros, 0.1), Err(Error::Argument { .. })));
        assert!(matches!(optimizer.step(&mut model, &zeros, 0.1), Err(Error::Argument { .. })));
    }
    let mut wider = Sgd::new(&before, SgdConfig::new().with_frozen(vec!["bias".into()])).unwrap();
    let (mut none, zeros) = (Vec::<Linear<f32>>::new(), Vec::new());
    assert!(wider.step(&mut none, &zeros, 0.1).is_err());
    let zeros = model.zeros_like();
    for lr in [-0.1, f64::NAN, f64::INFINITY] {
        assert!(optimizer.step(&mut model, &zeros, lr).is_err());
    }
    assert!(changed(&before, &model).is_empty());
    assert_eq!(optimizer.steps(), 0);
    optimizer.step(&mut model, &zeros, 0.0).unwrap();
}
