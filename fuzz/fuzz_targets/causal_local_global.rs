//! Causal attention to a window and to summaries: what comes later has no influence, and token by token gives what the whole text does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use linformer::ndarray::{Array2, s};
use linformer::{EncoderConfig, LanguageModel, LanguageModelConfig, NormPlacement};
use linformer_fuzz::{Choices, are_near, fill_pooling_queries};

const VOCABULARY: usize = 5;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let norm = if choices.coin() { NormPlacement::Post } else { NormPlacement::Pre };
    let encoder = EncoderConfig::new(choices.local_global(true), 1 + choices.up_to(1)).with_norm(norm);
    let config = LanguageModelConfig::new(VOCABULARY, encoder);
    let mut model = LanguageModel::<f64>::new(&config, 1).expect("a small model");
    fill_pooling_queries(&mut model);
    let texts = 1 + choices.up_to(2);
    let prompts: Vec<Vec<usize>> = (0..texts)
        .map(|_| (0..1 + choices.up_to(70)).map(|_| choices.up_to(VOCABULARY - 1)).collect())
        .collect();
    let steps = choices.up_to(20);
    let next: Vec<Vec<usize>> = (0..steps)
        .map(|_| (0..texts).map(|_| choices.up_to(VOCABULARY - 1)).collect())
        .collect();
    let (mut scores, mut state) = model.prefill(&prompts).expect("short texts");
    let mut all = vec![scores];
    for tokens in &next {
        let tokens: Vec<Option<usize>> = tokens.iter().map(|&token| Some(token)).collect();
        scores = model.step(&mut state, &tokens).expect("one token a text");
        all.push(scores);
    }
    for (text, prompt) in prompts.iter().enumerate() {
        let mut tokens = prompt.clone();
        tokens.extend(next.iter().map(|tokens| tokens[text]));
        let whole = Array2::from_shape_vec((1, tokens.len()), tokens).expect("one text");
        let expected = model.forward(&whole, None).expect("a short text");
        for (step, scores) in all.iter().enumerate() {
            let row = expected.slice(s![0, prompt.len() - 1 + step, ..]);
            assert!(are_near(scores.row(text), row), "{config:?} {} tokens, step {step}", prompt.len());
        }
    }
});
