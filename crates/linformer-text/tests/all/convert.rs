//! Exact encoders in local-global form: the same where it is exact, near where it is not, nearer after training.

use linformer_text::ndarray::array;
use linformer_text::{Agreement, DistillationOptions, EmbedOptions, LongText, Pooling, TextEncoder};

use crate::{bare, difference, tiny};

/// Words, no two texts with the same ones.
fn text(count: usize, seed: usize) -> String {
    const WORDS: [&str; 7] = ["sea ", "whale ", "the ", "ship ", "man ", "night ", "old "];
    (0..count).map(|index| WORDS[(index * index + seed * 3 + index / 5) % 7]).collect()
}

fn texts(count: usize, first: usize) -> Vec<String> {
    (first..first + count).map(|seed| text(120, seed)).collect()
}

fn one_pass() -> EmbedOptions {
    EmbedOptions::new().with_long(LongText::OnePass)
}

/// The tiny model with weights large enough that attention looks at something.
fn exact(name: &str) -> (crate::Temporary, TextEncoder) {
    let folder = tiny(name);
    let encoder = bare(&folder);
    let mut model = encoder.model().clone();
    linformer::Parameters::visit_mut(&mut model, "", &mut |name, _, mut values| {
        if name.contains("query") || name.contains("key") {
            values *= 4.0_f32;
        }
    });
    let encoder = encoder.with_model(model).unwrap();
    (folder, encoder)
}

#[test]
fn two_blocks_are_exact_and_longer_texts_are_near() {
    let (_folder, exact) = exact("convert-near");
    let converted = exact.to_local_global(16, 8, &texts(3, 0)).unwrap();
    let short = [text(30, 50), text(9, 51)];
    assert!(exact.count_tokens(&short[0]).unwrap() <= 32);
    assert!(difference(&converted.embed(&short).unwrap(), &exact.embed(&short).unwrap()) < 1e-5);

    let held_out = texts(4, 60);
    let fidelity = converted.fidelity(&exact, &held_out).unwrap();
    assert_eq!((fidelity.pieces, fidelity.layers.len()), (4, 2));
    assert!(fidelity.layers.iter().all(|&error| error > 1e-4 && error < 1.0), "{fidelity}");
    assert!(fidelity.vectors.least > 0.9 && fidelity.vectors.least < 1.0, "{fidelity}");
    let same = exact.fidelity(&exact, &held_out).unwrap();
    assert!(
        same.layers.iter().all(|&error| error == 0.0) && same.vectors.least > 1.0 - 1e-12,
        "{same}"
    );
}

#[test]
fn any_length_is_read_in_one_pass_and_only_when_asked() {
    let (_folder, exact) = exact("convert-long");
    let converted = exact.to_local_global(16, 8, &texts(3, 0)).unwrap();
    let long = [text(1000, 7)];
    assert!(
        converted.embed(&long).is_err(),
        "longer than what the model was trained for, and nobody asked for that"
    );
    assert!(exact.embed_with(&long, &one_pass()).is_err());
    let whole = converted.embed_with(&long, &one_pass()).unwrap();
    assert!(whole.iter().all(|value| value.is_finite()));
    // The mean of the exact model's chunks is what a whole should be like.
    let chunks = exact
        .embed_with(&long, &EmbedOptions::new().with_long(LongText::Chunks { overlap: 0 }))
        .unwrap();
    let agreement = Agreement::of(chunks.view(), whole.view()).unwrap();
    assert!(agreement.mean > 0.9, "{agreement}");

    let path = crate::tiny_model::temporary("converted.safetensors");
    converted.save(&path).unwrap();
    let opened = TextEncoder::open(&path);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(
        opened.unwrap().embed_with(&long, &one_pass()).unwrap(),
        whole,
        "a file gives the same bits"
    );
}

#[test]
fn the_plan_is_the_cheapest_form_within_the_bound() {
    let (_folder, exact) = exact("convert-plan");
    let plan = exact.plan_local_global(&texts(3, 0), &texts(3, 20), 0.9).unwrap();
    let chosen = plan.chosen().expect("0.9 is little");
    let converted = exact.to_local_global(chosen.form.block, chosen.form.slots, &texts(3, 0)).unwrap();
    assert!(converted.fidelity(&exact, &texts(3, 20)).unwrap().vectors.mean >= 0.9);
    let cls = TextEncoder::new(exact.model().clone(), exact.tokenizer().clone(), Pooling::Cls, false).unwrap();
    let error = cls.plan_local_global(&texts(3, 0), &texts(3, 20), 0.9).unwrap_err().to_string();
    assert!(error.contains("fidelity"), "{error}");
}

#[test]
fn training_comes_nearer_and_is_repeatable() {
    let (_folder, exact) = exact("convert-train");
    let converted = exact.to_local_global(4, 2, &texts(3, 0)).unwrap();
    let (training, held_out) = (texts(12, 0), texts(4, 40));
    let options = DistillationOptions::new(30)
        .with_rate(2e-3)
        .with_batch_tokens(512)
        .with_evaluate_every(10);
    let mut seen = Vec::new();
    let distilled = converted
        .distill(&exact, (&training, &held_out), &options, |progress| seen.push(progress))
        .unwrap();
    assert_eq!(
        seen.iter().map(|progress| progress.step).collect::<Vec<_>>(),
        (1..=30).collect::<Vec<_>>()
    );
    let evaluated: Vec<u64> = seen
        .iter()
        .filter(|progress| progress.held_out.is_some())
        .map(|progress| progress.step)
        .collect();
    assert_eq!(evaluated, [10, 20, 30]);
    let before = converted.fidelity(&exact, &held_out).unwrap().vectors;
    let after = distilled.encoder.fidelity(&exact, &held_out).unwrap().vectors;
    assert!(
        distilled.step > 0 && 1.0 - after.mean < 0.8 * (1.0 - before.mean),
        "{before} to {after}"
    );
    assert!((after.mean - distilled.held_out.mean).abs() < 1e-12);
    // Token and position vectors stay, and the rest is the same when it is done again.
    assert_eq!(distilled.encoder.model().embedding().weight(), exact.model().embedding().weight());
    let again = converted.distill(&exact, (&training, &held_out), &options, |_| ()).unwrap();
    assert_eq!(again.encoder.embed(&held_out).unwrap(), distilled.encoder.embed(&held_out).unwrap());
}

/// Sentences, most of them shorter than the shortest sequences that are drawn of long texts.
#[test]
fn short_texts_are_all_read() {
    let (_folder, exact) = exact("convert-short");
    let converted = exact.to_local_global(4, 2, &texts(3, 0)).unwrap();
    let short: Vec<String> = (0..20).map(|seed| text(9 + 2 * seed, seed)).collect();
    let losses = |texts: &[String], seed: u64| {
        let options = DistillationOptions::new(3).with_batch_tokens(256).with_seed(seed);
        let mut losses = Vec::new();
        converted
            .distill(&exact, (texts, &short), &options, |progress| losses.push(progress.loss))
            .unwrap();
        losses
    };
    let longest = &short[19..];
    assert_ne!(losses(&short, 0), losses(&short, 1));
    assert_ne!(losses(&short, 0), losses(longest, 0));
}

#[test]
fn chunks_of_a_converted_encoder_may_be_longer_than_the_model_was() {
    let (_folder, exact) = exact("convert-limits");
    let converted = exact.to_local_global(16, 8, &texts(3, 0)).unwrap();
    let chunks = EmbedOptions::new()
        .with_long(LongText::Chunks { overlap: 0 })
        .with_max_len(Some(300));
    assert!(converted.embed_with(&[text(1000, 7)], &chunks).is_ok());
    assert!(exact.embed_with(&[text(1000, 7)], &chunks).is_err());
}

#[test]
fn training_ends_where_it_is_near_enough() {
    let (_folder, exact) = exact("convert-enough");
    let converted = exact.to_local_global(16, 8, &texts(3, 0)).unwrap();
    let options = DistillationOptions::new(30).with_enough(Some(0.0));
    let mut steps = 0;
    let distilled = converted
        .distill(&exact, (&texts(3, 0), &texts(3, 9)), &options, |_| steps += 1)
        .unwrap();
    assert_eq!((steps, distilled.step), (0, 0));
    assert_eq!(
        distilled.encoder.embed(&texts(1, 3)).unwrap(),
        converted.embed(&texts(1, 3)).unwrap()
    );
}

#[test]
fn what_cannot_be_converted_or_trained_is_an_error() {
    let (_folder, exact) = exact("convert-errors");
    let some = texts(2, 0);
    let converted = exact.to_local_global(16, 8, &some).unwrap();
    for block in [0, 48] {
        assert!(exact.to_local_global(block, 8, &some).is_err(), "{block}");
    }
    assert!(exact.to_local_global(16, 0, &some).is_err(), "there is nothing to measure");
    let blocks = exact.to_local_global::<&str>(16, 0, &[]).unwrap();
    assert!(blocks.embed_with(&[text(500, 1)], &one_pass()).is_ok());
    let empty: [&str; 2] = ["", "  "];
    assert!(exact.to_local_global(16, 8, &empty).is_err());
    assert!(exact.to_local_global::<&str>(16, 8, &[]).is_err());
    assert!(
        converted
            .to_local_global(16, 8, &some)
            .unwrap_err()
            .to_string()
            .contains("not exact")
    );
    assert!(exact.plan_local_global(&some, &some, 1.5).is_err());
    assert!(converted.fidelity(&exact, &empty).is_err());

    let refused = |student: &TextEncoder, training: &[&str], options: &DistillationOptions| {
        let held_out: Vec<&str> = some.iter().map(String::as_str).collect();
        student
            .distill(&exact, (training, &held_out), options, |_| ())
            .unwrap_err()
            .to_string()
    };
    let training: Vec<&str> = some.iter().map(String::as_str).collect();
    let good = DistillationOptions::new(2);
    assert!(refused(&converted, &empty, &good).contains("no tokens"));
    for bad in [
        DistillationOptions::new(0),
        good.clone().with_rate(0.0),
        good.clone().with_rate(f64::NAN),
        good.clone().with_batch_tokens(0),
        good.clone().with_batch_tokens(usize::MAX),
        good.clone().with_batch_tokens(1 << 40),
        good.clone().with_evaluate_every(0),
        good.clone().with_enough(Some(1.5)),
    ] {
        assert!(!refused(&converted, &training, &bad).is_empty());
    }
    assert!(refused(&exact, &training, &good).contains("exact"), "it has nothing to learn");
    let mut other = exact.model().clone();
    linformer::Parameters::visit_mut(&mut other, "", &mut |name, _, mut values| {
        if name.starts_with("embedding") {
            values += 1.0_f32;
        }
    });
    let other = exact.with_model(other).unwrap().to_local_global(16, 8, &some).unwrap();
    assert!(refused(&other, &training, &good).contains("token vectors"));
    assert!(other.fidelity(&exact, &some).is_err());

    let last =
        |encoder: &TextEncoder| TextEncoder::new(encoder.model().clone(), encoder.tokenizer().clone(), Pooling::LastToken, false).unwrap();
    let error = last(&converted)
        .distill(&last(&exact), (&training, &training), &good, |_| ())
        .unwrap_err();
    assert!(error.to_string().contains("last token"), "{error}");
    assert!(refused(&last(&converted), &training, &good).contains("pooling"));
}

#[test]
fn cosines_are_those_of_rows() {
    let agreement = Agreement::of(
        array![[1.0, 0.0], [0.0, 0.0], [0.0, 3.0]].view(),
        array![[2.0, 0.0], [0.0, 0.0], [4.0, 0.0]].view(),
    )
    .unwrap();
    assert!((agreement.mean - 2.0 / 3.0).abs() < 1e-12 && agreement.least == 0.0);
    assert!(Agreement::of(array![[1.0, 0.0]].view(), array![[1.0]].view()).is_err());
    assert!(Agreement::of(array![[f32::NAN]].view(), array![[1.0]].view()).is_err());
    let none = linformer_text::ndarray::Array2::zeros((0, 3));
    assert!(Agreement::of(none.view(), none.view()).is_err());
}
