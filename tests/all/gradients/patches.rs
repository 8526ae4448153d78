//! Windows of a series as positions.

use crate::common::gradients::{check, weights};
use crate::common::{bits, difference, scramble, sequence};
use linformer::ndarray::{Array2, Array3, array, s};
use linformer::{Error, PaddingMask, Parameters, Patches, PatchesConfig};

fn layer(window: usize, stride: usize, differences: bool) -> Patches<f64> {
    let config = PatchesConfig::new(2, window, stride, 3).with_differences(differences);
    let mut layer = Patches::new(&config, 1).unwrap();
    scramble(&mut layer, 1);
    layer
}

/// Overlapping windows, adjacent ones, some with points between them, and single points; with and without differences.
fn layers() -> impl Iterator<Item = Patches<f64>> {
    let of = |(window, stride)| [false, true].map(|differences| (window, stride, differences));
    let all = [(3, 1), (3, 2), (2, 2), (2, 3), (1, 1)].into_iter().flat_map(of);
    all.filter(|&(window, _, differences)| window > 1 || !differences)
        .map(|(window, stride, differences)| layer(window, stride, differences))
}

#[test]
fn a_position_is_the_product_of_its_window() {
    let x = array![[[1.0], [4.0], [9.0], [16.0], [25.0], [36.0], [49.0]]];
    let mut layer = Patches::<f64>::new(&PatchesConfig::new(1, 3, 2, 1).with_differences(true), 0).unwrap();
    let weight = array![[1.0, 10.0, 100.0, 1000.0, 10_000.0]];
    for (name, mut tensor) in layer.named_mut() {
        if name == "linear.weight" {
            tensor.assign(&weight);
        } else {
            tensor.fill(0.5);
        }
    }
    let expected = [[1.0, 4.0, 9.0], [9.0, 16.0, 25.0], [25.0, 36.0, 49.0]]
        .map(|[a, b, c]| a + 10.0 * b + 100.0 * c + 1000.0 * (b - a) + 10_000.0 * (c - b) + 0.5);
    let y = layer.forward(&x).unwrap();
    assert_eq!(y.into_raw_vec_and_offset().0, expected);
}

#[test]
fn the_number_of_positions_is_what_the_configuration_says() {
    for layer in layers() {
        for n in layer.config().window..9 {
            let positions = layer.config().positions(n).unwrap();
            assert_eq!(layer.forward(&sequence((2, n, 2), 1)).unwrap().dim(), (2, positions, 3));
        }
    }
}

#[test]
fn gradients_against_central_differences() {
    for layer in layers() {
        let (x, mut gradients) = (sequence((2, 8, 2), 1), layer.zeros_like());
        let (y, cache) = layer.forward_train(&x).unwrap();
        assert_eq!(y, layer.forward(&x).unwrap());
        let dx = layer.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        check(&layer, &x, &dx, &gradients, |layer, x| layer.forward(x).unwrap());
    }
}

#[test]
fn a_padded_series_has_the_patches_that_it_has_alone() {
    for layer in layers() {
        let mut x = sequence((2, 9, 2), 1);
        x.slice_mut(s![1, 5.., ..]).fill(f64::NAN);
        let mask = layer.mask(&PaddingMask::from_lengths(&[9, 5], 9).unwrap()).unwrap();
        let alone = layer.config().positions(5).unwrap();
        assert_eq!(mask.dim(), (2, layer.config().positions(9).unwrap()));
        assert_eq!(mask.lengths(), [mask.dim().1, alone]);
        let together = layer.forward(&x).unwrap();
        let single = layer.forward(&x.slice(s![1..2, ..5, ..])).unwrap();
        assert!(difference(together.slice(s![1..2, ..alone, ..]), single.view()) < 1e-12);
    }
}

/// A window with a hole in it is no patch, and a series without any real point has none.
#[test]
fn a_patch_is_real_where_all_its_points_are() {
    let real = array![[true, true, true, false, true, true], [false, false, false, false, false, false]];
    let mask = layer(2, 1, true).mask(&PaddingMask::from_bools(&real)).unwrap();
    let is_real = Array2::from_shape_fn((2, 5), |(item, position)| mask.is_real(item, position));
    assert_eq!(is_real.row(0), array![true, true, false, false, true]);
    assert_eq!(is_real.row(1), array![false, false, false, false, false]);
}

#[test]
fn what_cannot_be_cut_is_an_error_that_says_so() {
    let (long, short) = (layer(3, 1, true), sequence((1, 2, 2), 1));
    let says = |error: Error, words: &str| assert!(error.to_string().contains(words), "{error}");
    says(
        long.forward(&short).unwrap_err(),
        "a series of 2 points is shorter than a window of 3",
    );
    says(long.forward_train(&short).unwrap_err(), "shorter than a window of 3");
    says(long.config().positions(2).unwrap_err(), "shorter than a window of 3");
    says(long.forward(&sequence((1, 5, 3), 1)).unwrap_err(), "(any batch, any length, 2)");
    let mask = |lengths: &[usize], n| long.mask(&PaddingMask::from_lengths(lengths, n).unwrap()).unwrap_err();
    says(mask(&[2], 2), "shorter than a window of 3");
    says(mask(&[5, 2], 5), "item 1 has real points, but no patch of 3");
    for (config, option) in [
        (PatchesConfig::new(0, 2, 1, 3), "channels"),
        (PatchesConfig::new(2, 0, 1, 3), "window"),
        (PatchesConfig::new(2, 2, 0, 3), "stride"),
        (PatchesConfig::new(2, 2, 1, 0), "dim"),
        (PatchesConfig::new(2, 1, 1, 3).with_differences(true), "differences"),
        (PatchesConfig::new(1 << 30, 1 << 30, 1, 3), "multiply to more"),
    ] {
        says(Patches::<f64>::new(&config, 0).unwrap_err(), option);
        says(config.positions(9).unwrap_err(), option);
    }
}

#[test]
fn a_failed_backward_leaves_the_gradients_as_they_were() {
    let (one, other) = (layer(3, 1, true), layer(3, 2, true));
    let x = sequence((2, 8, 2), 1);
    let mut gradients = one.zeros_like();
    scramble(&mut gradients, 5);
    let before = gradients
        .named()
        .into_iter()
        .map(|(_, tensor)| tensor.to_owned())
        .collect::<Vec<_>>();
    let (y, cache) = one.forward_train(&x).unwrap();
    assert!(one.backward(cache.clone(), Array3::zeros((2, 1, 3)), &mut gradients).is_err());
    let (y_other, cache_other) = other.forward_train(&x).unwrap();
    assert!(one.backward(cache_other, weights(y_other.dim()), &mut gradients).is_err());
    assert!(one.backward(cache, weights(y.dim()), &mut other.zeros_like()).is_err());
    let after = gradients
        .named()
        .into_iter()
        .map(|(_, tensor)| tensor.to_owned())
        .collect::<Vec<_>>();
    assert_eq!(before.len(), after.len());
    assert!(before.iter().zip(&after).all(|(before, after)| bits(before) == bits(after)));
}
