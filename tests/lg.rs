//! Temporary.
use linformer::ndarray::{Array1, Array2, Array3, ArrayD, IxDyn};
use linformer::*;
use serde_json::Value;

fn array(v: &Value) -> ArrayD<f64> {
    let shape: Vec<usize> = v["shape"]
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_u64().unwrap() as usize)
        .collect();
    let data: Vec<f64> = v["data"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    ArrayD::from_shape_vec(IxDyn(&shape), data).unwrap()
}

#[test]
fn goldens() {
    for entry in std::fs::read_dir("../shared/goldens").unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if !name.starts_with("tangent") {
            continue;
        }
        let v: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let c = &v["config"];
        let n = |k: &str| c[k].as_u64().unwrap() as usize;
        let state = v["state_dict"].as_object().unwrap();
        let bias = |k: &str| state.contains_key(k);
        let mut config = LocalGlobalConfig::new(n("dim"), n("heads"))
            .with_block(n("block"))
            .with_slots(n("slots"))
            .with_window(c["window"].as_bool().unwrap())
            .with_query_bias(bias("query.bias"))
            .with_key_value_bias(bias("key.bias"), bias("value.bias"))
            .with_output_bias(bias("output.bias"));
        if n("slots") > 0 {
            config = config.with_mass_shift(c["shift"].as_f64().unwrap());
            if c["mean_query"].as_bool().unwrap() {
                config = config.with_pooling_query(PoolingQuery::MeanOfItem);
            }
        }
        let mut layer = LocalGlobalAttention::<f64>::new(&config, 0).unwrap();
        layer.visit_mut("", &mut |name, _, mut t| {
            let key = if name == "pooling_query" { "u" } else { name };
            t.assign(&array(&state[key]));
        });
        let x: Array3<f64> = array(&v["inputs"]["x"]).into_dimensionality().unwrap();
        let lengths: Vec<usize> = v["inputs"]["lengths"]
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_u64().unwrap() as usize)
            .collect();
        let mask = PaddingMask::from_lengths(&lengths, x.dim().1).unwrap();
        let expected: Array3<f64> = array(&v["output"]).into_dimensionality().unwrap();
        let y = layer.forward(&x, Some(&mask)).unwrap();
        let worst = |a: &Array3<f64>, b: &Array3<f64>| {
            let mut m = 0.0f64;
            for (i, &len) in lengths.iter().enumerate() {
                for t in 0..len {
                    for d in 0..a.dim().2 {
                        m = m.max((a[[i, t, d]] - b[[i, t, d]]).abs());
                    }
                }
            }
            m
        };
        let (yt, cache) = layer.forward_train(&x, Some(&mask)).unwrap();
        let dy: Array3<f64> = array(&v["output_gradient"]).into_dimensionality().unwrap();
        let mut g = layer.zeros_like();
        let dx = layer.backward(cache, dy, &mut g).unwrap();
        let dxe: Array3<f64> = array(&v["input_gradient"])
            .into_dimensionality()
            .or_else(|_| array(&v["input_gradient"]["x"]).into_dimensionality())
            .unwrap();
        print!(
            "{name}: forward {:.1e} train {:.1e} dx {:.1e}",
            worst(&y, &expected),
            worst(&yt, &expected),
            worst(&dx, &dxe)
        );
        let ge = v["gradients"].as_object().unwrap();
        g.visit("", &mut |name, _, t| {
            let key = if name == "pooling_query" { "u" } else { name };
            let e = array(&ge[key]);
            let m = (&t - &e).iter().fold(0.0f64, |m, x| m.max(x.abs()));
            print!(" {name} {m:.1e}");
        });
        println!();
    }
}
