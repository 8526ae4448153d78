//! Models of tokens: losses, gradients, three steps of AdamW, and what they write.

use linformer::ndarray::{Array2, Array3, Axis};
use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Optimizer, PairBatch, Step, TokenBatch, TokenMasking, Trainable};
use linformer::{
    Activation, AttentionConfig, CausalConfig, Classifier, ClassifierConfig, DecoderConfig, DecoderLanguageModelConfig, EncoderConfig,
    EncoderDecoder, EncoderDecoderConfig, FeedForwardConfig, GenerationConfig, HeadKind, LanguageModel, LanguageModelConfig,
    LinformerConfig, PaddingMask, Pooling, PositionKind, Scalar, SinusoidLayout, TranslationConfig,
};

use super::attention::trained;
use super::record::Record;

const VOCABULARY: usize = 61;
const LENGTH: usize = 40;
const DIM: usize = 24;

fn tokens() -> Array2<usize> {
    Array2::from_shape_fn((2, LENGTH), |(item, t)| (t * t + 3 * item + t / 2) % VOCABULARY)
}

fn encoder(attention: impl Into<linformer::AttentionKind>) -> EncoderConfig {
    EncoderConfig::new(attention, 2).with_feed_forward(Some(FeedForwardConfig::new(40)))
}

fn compressed() -> LinformerConfig {
    LinformerConfig::new(DIM, 3, LENGTH, 8)
}

fn blockwise() -> CausalConfig {
    CausalConfig::new(DIM, 3, 2 * LENGTH, 2).with_block(Some(8))
}

fn sinusoids() -> PositionKind {
    PositionKind::Sinusoidal {
        base: 10_000.0,
        layout: SinusoidLayout::Halves,
        stored: true,
    }
}

/// A loss as something that results can be made of.
fn as_result<A: Scalar>(loss: f64) -> Array3<A> {
    Array3::from_elem((1, 1, 1), A::cast(loss))
}

fn language_models<A: Scalar>(record: &mut Record) {
    let masking = TokenMasking::new(VOCABULARY, 1, &[0, 1]).unwrap();
    let masked = masking.corrupt(&tokens(), None, Step::new(3, 0)).unwrap();
    let heads = [
        ("tied head", HeadKind::Tied),
        (
            "RoBERTa's head",
            HeadKind::Roberta {
                tied: true,
                activation: Activation::Gelu,
            },
        ),
    ];
    for (name, head) in heads {
        let config = LanguageModelConfig::new(VOCABULARY, encoder(compressed()))
            .with_head(head)
            .with_embedding_norm(true)
            .with_position(PositionKind::Learned { max_len: LENGTH });
        let model = LanguageModel::<A>::new(&config, 17).unwrap();
        let name = format!("language model, {name}");
        record.array(&format!("{name}: scores"), &model.forward(&tokens(), None).unwrap());
        trained(record, &name, model, |model, pass| {
            let loss = CrossEntropy::new();
            let (loss, gradients) = model.loss_and_gradients(&masked, &loss, pass).unwrap();
            (vec![as_result(loss)], gradients)
        });
    }
}

fn classifiers<A: Scalar>(record: &mut Record) {
    for pooling in [Pooling::Mean, Pooling::Max, Pooling::First] {
        let config = ClassifierConfig::tokens(
            LanguageModelConfig::new(VOCABULARY, encoder(compressed())).with_position(sinusoids()),
            5,
        )
        .with_pooling(pooling)
        .with_hidden_dim(Some(12));
        let model = Classifier::<A>::new(&config, 19).unwrap();
        let mask = PaddingMask::from_lengths(&[LENGTH, 23], LENGTH).unwrap();
        trained(record, &format!("classifier, {pooling:?}"), model, |model, pass| {
            let scores = model.forward(&tokens(), Some(&mask)).unwrap();
            let loss = CrossEntropy::new().with_label_smoothing(0.1);
            let (loss, gradients) = model
                .loss_and_gradients(&TokenBatch::new(tokens(), &[Some(3), Some(0)]).with_mask(&mask), &loss, pass)
                .unwrap();
            (vec![scores.insert_axis(Axis(0)), as_result(loss)], gradients)
        });
    }
}

fn generated<A: Scalar>(record: &mut Record, name: &str, model: &LanguageModel<A>) {
    let drawn = GenerationConfig::new(30).with_temperature(0.9).with_seed(7);
    let configs = [
        ("likeliest", GenerationConfig::new(30).with_repetition_penalty(1.3)),
        ("drawn", drawn.clone()),
        ("drawn of the likeliest", drawn.with_top_k(Some(9)).with_top_p(Some(0.8))),
    ];
    for (how, config) in configs {
        let mut generation = model.generate(&[vec![2, 3, 5], vec![7, 11, 13, 17, 19]], &config).unwrap();
        for step in generation.by_ref() {
            step.unwrap();
        }
        record.tokens::<A>(&format!("{name}: tokens, {how}"), generation.texts());
        record.array(&format!("{name}: last scores, {how}"), generation.scores());
    }
}

/// Some steps of training, so that the likeliest token is so by more than rounding.
fn written<A: Scalar>(record: &mut Record) {
    let kinds: [(&str, EncoderConfig); 2] = [
        ("blockwise causal model", encoder(blockwise())),
        ("exact causal model", encoder(AttentionConfig::new(DIM, 3).with_causal(true))),
    ];
    for (name, encoder) in kinds {
        let config = LanguageModelConfig::new(VOCABULARY, encoder).with_position(sinusoids());
        let mut model = LanguageModel::<A>::new(&config, 23).unwrap();
        let tokens = tokens();
        let targets = model.next_tokens(&tokens, None).unwrap();
        trained(record, name, model.clone(), |model, pass| {
            let (loss, gradients) = model
                .loss_and_gradients(&TokenBatch::new(&tokens, &targets), &CrossEntropy::new(), pass)
                .unwrap();
            (vec![as_result(loss)], gradients)
        });
        let mut optimizer = AdamW::new(&model, AdamWConfig::new()).unwrap();
        for index in 0..20 {
            let pass = linformer::TrainingPass::new(Step::new(1, index));
            let (_, mut gradients) = model
                .loss_and_gradients(&TokenBatch::new(&tokens, &targets), &CrossEntropy::new(), &pass)
                .unwrap();
            optimizer.clip_gradient_norm(&mut gradients, 1.0).unwrap();
            optimizer.step(&mut model, &gradients, 3e-3).unwrap();
        }
        generated(record, name, &model);
    }
}

fn translated<A: Scalar>(record: &mut Record) {
    let source = LanguageModelConfig::new(VOCABULARY, encoder(compressed()));
    let decoder = DecoderConfig::new(blockwise(), compressed(), 1);
    let target = DecoderLanguageModelConfig::new(VOCABULARY, decoder).with_position(sinusoids());
    let mut model = EncoderDecoder::<A>::new(&EncoderDecoderConfig::new(source, target), 29).unwrap();
    let texts: [(Vec<usize>, Vec<usize>); 2] = [((2..30).collect(), (3..20).collect()), ((5..18).collect(), (7..40).collect())];
    let batch = PairBatch::from_sequences(&texts, 0, 1).unwrap();
    let step =
        |model: &EncoderDecoder<A>, pass: &linformer::TrainingPass| model.loss_and_gradients(&batch, &CrossEntropy::new(), pass).unwrap();
    trained(record, "encoder-decoder", model.clone(), |model, pass| {
        let (loss, gradients) = step(model, pass);
        (vec![as_result(loss)], gradients)
    });
    let mut optimizer = AdamW::new(&model, AdamWConfig::new()).unwrap();
    for index in 0..10 {
        let (_, gradients) = step(&model, &linformer::TrainingPass::new(Step::new(1, index)));
        optimizer.step(&mut model, &gradients, 3e-3).unwrap();
    }
    for beams in [1, 3] {
        let config = TranslationConfig::new(0, 1, 20).with_beams(beams);
        let config = if beams > 1 { config.with_length_penalty(0.6) } else { config };
        let sources: Vec<&[usize]> = texts.iter().map(|(source, _)| &source[..]).collect();
        let found = model.translate(&sources, &config).unwrap();
        let all = || found.iter().flatten();
        record.tokens::<A>(
            &format!("encoder-decoder: tokens, {beams} beams"),
            all().map(|found| &found.tokens[..]),
        );
        record.numbers(
            &format!("encoder-decoder: scores, {beams} beams"),
            all().map(|found| A::cast(found.score)),
        );
    }
}

pub fn record<A: Scalar>(record: &mut Record) {
    language_models::<A>(record);
    classifiers::<A>(record);
    written::<A>(record);
    translated::<A>(record);
}
