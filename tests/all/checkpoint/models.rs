//! Models in files: what is saved is loaded, bit for bit.

use std::collections::HashMap;

use crate::common::{encoder_config, linformer_config, model_bits, scramble, small_encoder, small_language_model, small_model};
use half::{bf16, f16};
use linformer::checkpoint::{Checkpoint, Tensors};
use linformer::ndarray::array;
use linformer::{
    Activation, AttentionConfig, Classifier, ClassifierConfig, ClassifierInput, Convolution, ConvolutionKernel, Encoder, EncoderConfig,
    ExactAttention, FeedForward, FeedForwardConfig, HeadKind, LanguageModel, LanguageModelConfig, LinformerAttention, LinformerConfig,
    Parameters, Pooling, PositionKind, ProjectionConfig, ProjectionKind, Scalar, Sharing, SinusoidLayout,
};
use proptest::prelude::*;
use proptest::sample::select;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// Saves and loads the model with all its numbers different, and some of them odd; the copy must be the same to the last bit.
fn survives<M: Checkpoint<f64>>(mut model: M) -> M {
    scramble(&mut model, 3);
    let mut odd = [
        f64::NAN,
        -0.0,
        f64::INFINITY,
        f64::MIN_POSITIVE / 8.0,
        f64::from_bits(0x7ff4_0000_dead_beef),
    ]
    .into_iter();
    model.visit_mut("", &mut |_, _, mut tensor| {
        if let Some(first) = tensor.first_mut() {
            *first = odd.next().unwrap_or(*first);
        }
    });
    let bytes = model.to_bytes().unwrap();
    let loaded = M::from_bytes(&bytes).unwrap();
    assert_eq!(model_bits(&loaded), model_bits(&model));
    assert_eq!(loaded.to_bytes().unwrap(), bytes);
    loaded
}

#[test]
fn every_model_kind_survives() {
    let config = LinformerConfig::new(6, 2, 5, 3)
        .with_key_value_bias(true, false)
        .with_projection_bias(true);
    assert_eq!(survives(LinformerAttention::new(&config, 0).unwrap()).config(), &config);
    let config = AttentionConfig::new(6, 3)
        .with_query_bias(true)
        .with_kv_heads(1)
        .with_tied_key_value(true);
    assert_eq!(survives(ExactAttention::new(&config, 0).unwrap()).config(), &config);
    for gated in [false, true] {
        let config = FeedForwardConfig::new(5)
            .with_gated(gated)
            .with_bias(!gated)
            .with_activation(Activation::GeluTanh);
        let layer = survives(FeedForward::<f64>::new(3, 4, &config, 0).unwrap());
        let x = crate::common::sequence((1, 2, 3), 0);
        let again = FeedForward::from_bytes(&layer.to_bytes().unwrap()).unwrap();
        assert_eq!(format!("{:?}", layer.forward(&x)), format!("{:?}", again.forward(&x)));
    }
    let config = small_encoder().with_norm_eps(0.1 + 0.2);
    assert_eq!(survives(Encoder::new(&config, 0).unwrap()).config(), &config);
    let exact = EncoderConfig::new(AttentionConfig::new(4, 2), 0).with_final_norm(false);
    assert_eq!(survives(Encoder::new(&exact, 0).unwrap()).config(), &exact);
    assert_eq!(survives(small_model()).config(), &small_language_model());
    let tokens = ClassifierConfig::tokens(small_language_model(), 3)
        .with_hidden_dim(Some(5))
        .with_activation(Activation::Tanh);
    assert_eq!(survives(Classifier::new(&tokens, 0).unwrap()).config(), &tokens);
    let features = ClassifierConfig::features(2, small_encoder(), 3).with_pooling(Pooling::Max);
    assert_eq!(survives(Classifier::new(&features, 0).unwrap()).config(), &features);
}

#[test]
fn every_kind_of_projection_survives_with_every_sharing() {
    let kernels = [
        ConvolutionKernel::Scalar,
        ConvolutionKernel::Depthwise,
        ConvolutionKernel::ChannelMixing,
    ];
    let convolutions = kernels.map(|kernel| ProjectionKind::Convolution(Convolution::new(kernel).with_all_windows(true)));
    let weighted = [ProjectionKind::Learned, ProjectionKind::Random].into_iter().chain(convolutions);
    let pooling = [
        ProjectionKind::MeanPooling,
        ProjectionKind::MaxPooling,
        ProjectionKind::AttentionPooling,
    ];
    let mut configs: Vec<ProjectionConfig> = pooling.map(ProjectionConfig::new).to_vec();
    for kind in weighted {
        for sharing in [Sharing::None, Sharing::Headwise, Sharing::KeyValue, Sharing::Layerwise] {
            let config = ProjectionConfig::new(kind).with_sharing(Some(sharing));
            configs.push(config);
            if kind != ProjectionKind::Random {
                configs.push(config.with_bias(true));
            }
        }
    }
    for projection in configs {
        let attention = LinformerConfig::new(4, 2, 6, 3).with_projection(projection);
        survives(Encoder::new(&EncoderConfig::new(attention.clone(), 2), 0).unwrap());
        if projection.sharing != Some(Sharing::Layerwise) {
            survives(LinformerAttention::new(&attention, 0).unwrap());
        }
    }
}

#[test]
fn a_loaded_model_computes_the_same() {
    let model = small_model();
    let loaded = LanguageModel::<f64>::from_bytes(&model.to_bytes().unwrap()).unwrap();
    let tokens = array![[1, 2, 3, 6], [0, 0, 5, 1]];
    let (one, other) = (model.forward(&tokens, None).unwrap(), loaded.forward(&tokens, None).unwrap());
    assert_eq!(crate::common::model_bits(&one), crate::common::model_bits(&other));
}

#[test]
fn tied_tensors_are_stored_once() {
    let config = small_language_model().with_head(HeadKind::Tied);
    let bytes = LanguageModel::<f64>::new(&config, 0).unwrap().to_bytes().unwrap();
    let names = SafeTensors::deserialize(&bytes)
        .unwrap()
        .names()
        .into_iter()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let projections: Vec<_> = names.iter().filter(|name| name.contains("projections")).collect();
    assert_eq!(projections, ["encoder.projections.key.weight"]);
    assert!(names.contains(&"embedding.weight".to_owned()) && names.contains(&"head.bias".to_owned()));
    assert!(!names.contains(&"head.weight".to_owned()));
}

#[test]
fn buffers_are_stored() {
    let position = PositionKind::Sinusoidal {
        base: 1e4,
        layout: SinusoidLayout::Halves,
        stored: true,
    };
    let mut config = small_language_model().with_position(position);
    config.encoder = EncoderConfig::new(LinformerConfig::new(4, 2, 6, 3).with_kind(ProjectionKind::Random), 1);
    let loaded = survives(LanguageModel::<f64>::new(&config, 0).unwrap());
    let names: Vec<_> = loaded.named().into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"position.frequencies".to_owned()));
    assert!(names.contains(&"encoder.blocks.0.attention.projections.key.weight".to_owned()));
}

#[test]
fn a_model_can_be_loaded_as_the_other_element_type() {
    let wide = small_model();
    let narrow = LanguageModel::<f32>::from_bytes(&wide.to_bytes().unwrap()).unwrap();
    for ((_, wide), (_, narrow)) in wide.named().iter().zip(narrow.named()) {
        assert_eq!(wide.mapv(<f32 as Scalar>::cast), narrow);
    }
    let wide = LanguageModel::<f64>::from_bytes(&narrow.to_bytes().unwrap()).unwrap();
    for ((_, wide), (_, narrow)) in wide.named().iter().zip(narrow.named()) {
        assert_eq!(wide, narrow.mapv(f64::from));
    }
}

/// The file `bytes` with all numbers stored as `dtype`.
fn stored_as(bytes: &[u8], dtype: Dtype, number: impl Fn(f64) -> Vec<u8>) -> Vec<u8> {
    let tensors = Tensors::<f64>::from_bytes(bytes).unwrap();
    let data: Vec<(&str, Vec<usize>, Vec<u8>)> = tensors
        .names()
        .map(|name| (name, tensors.get(name).unwrap()))
        .map(|(name, tensor)| (name, tensor.shape().to_vec(), tensor.iter().flat_map(|&x| number(x)).collect()))
        .collect();
    let views = data
        .iter()
        .map(|(name, shape, data)| (*name, TensorView::new(dtype, shape.clone(), data).unwrap()));
    let metadata: HashMap<_, _> = tensors.metadata().clone().into_iter().collect();
    safetensors::serialize(views, Some(metadata)).unwrap()
}

#[test]
fn half_precision_files_are_loaded() {
    let model = small_model();
    let bytes = model.to_bytes().unwrap();
    let half = stored_as(&bytes, Dtype::F16, |x| f16::from_f64(x).to_le_bytes().to_vec());
    let brain = stored_as(&bytes, Dtype::BF16, |x| bf16::from_f64(x).to_le_bytes().to_vec());
    let (half, brain) = (
        LanguageModel::<f64>::from_bytes(&half).unwrap(),
        LanguageModel::<f64>::from_bytes(&brain).unwrap(),
    );
    for (((_, exact), (_, half)), (_, brain)) in model.named().iter().zip(half.named()).zip(brain.named()) {
        assert_eq!(exact.mapv(|x| f16::from_f64(x).to_f64()), half);
        assert_eq!(exact.mapv(|x| bf16::from_f64(x).to_f64()), brain);
    }
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let first = small_model().to_bytes().unwrap();
    for _ in 0..10 {
        assert_eq!(small_model().to_bytes().unwrap(), first);
    }
}

fn positions() -> impl Strategy<Value = PositionKind> {
    let sinusoidal = (
        1.5..1e5,
        select(vec![SinusoidLayout::Halves, SinusoidLayout::Interleaved]),
        any::<bool>(),
    )
        .prop_map(|(base, layout, stored)| PositionKind::Sinusoidal { base, layout, stored });
    prop_oneof![
        Just(PositionKind::None),
        (1..9_usize).prop_map(|max_len| PositionKind::Learned { max_len }),
        sinusoidal,
    ]
}

fn language_models() -> impl Strategy<Value = LanguageModelConfig> {
    let after_padding =
        (1..9_usize, 0..3_usize).prop_map(|(max_len, padding_token)| PositionKind::LearnedAfterPadding { max_len, padding_token });
    let roberta = (any::<bool>(), select(vec![Activation::Gelu, Activation::Relu]));
    let heads = prop_oneof![
        Just(HeadKind::None),
        Just(HeadKind::Plain),
        Just(HeadKind::Tied),
        roberta.prop_map(|(tied, activation)| HeadKind::Roberta { tied, activation }),
    ];
    let eps = prop_oneof![Just(0.0), 1e-300..1.0];
    let sizes = (
        3..9_usize,
        select(vec![None, Some(3), Some(5)]),
        any::<bool>(),
        select(vec![None, Some(2)]),
        eps,
    );
    (encoder_config(1..=9), prop_oneof![positions(), after_padding], heads, sizes).prop_map(
        |(encoder, position, head, (vocab, width, norm, zeroed, eps))| {
            LanguageModelConfig::new(vocab, encoder.with_norm_eps(eps))
                .with_position(position)
                .with_head(head)
                .with_embedding_dim(width)
                .with_embedding_norm(norm)
                .with_zeroed_token(zeroed)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_layer_survives(config in linformer_config(1..=20)) {
        let loaded = survives(LinformerAttention::new(&config, 0).unwrap());
        prop_assert_eq!(loaded.config(), &config);
    }

    #[test]
    fn any_language_model_survives(config in language_models()) {
        let loaded = survives(LanguageModel::new(&config, 0).unwrap());
        prop_assert_eq!(loaded.config(), &config);
    }

    #[test]
    fn any_classifier_survives(
        model in language_models(), reads_tokens: bool, position in positions(), classes in 1..4_usize, hidden in select(vec![None, Some(3)]),
    ) {
        let config = if reads_tokens {
            ClassifierConfig::tokens(model, classes)
        } else {
            ClassifierConfig::new(ClassifierInput::Features { features: 2, encoder: model.encoder, position }, classes)
        };
        let config = config.with_hidden_dim(hidden);
        let loaded = survives(Classifier::new(&config, 0).unwrap());
        prop_assert_eq!(loaded.config(), &config);
    }
}
