// A test for BOOM: a model that `otrain-export --target boom` wrote gives its triplets the scores that it promises.
//
// Copy this file to `tests/otrain.rs` and the two files of the export, the model and its vectors, to `data/models/`, as
// `otrain.boom.onnx` and `otrain.boom.json`, or name them in OTRAIN_MODEL, without their endings. It needs crates that
// BOOM has already: ort 2 (with `load-dynamic`: ORT_DYLIB_PATH names libonnxruntime.so), ndarray, serde_json, base64 and
// sha2. It runs on the CPU; on a GPU allow 1e-3, for there matrices are multiplied in TF32 unless that is forbidden.
//
//     cargo test --test otrain

use base64::{engine::general_purpose::STANDARD, Engine};
use ndarray::Array4;
use ort::{inputs, session::Session, value::TensorRef};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn path(ending: &str) -> String {
    let stem = std::env::var("OTRAIN_MODEL").unwrap_or("data/models/otrain.boom".to_string());
    format!("{stem}.{ending}")
}

fn floats(told: &Value) -> Vec<f32> {
    told.as_array()
        .unwrap()
        .iter()
        .map(|each| each.as_f64().unwrap() as f32)
        .collect()
}

fn triplets(vectors: &Value) -> Array4<f32> {
    let bytes = STANDARD
        .decode(vectors["triplets"].as_str().unwrap())
        .unwrap();
    let pixels: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
        .collect();
    let shape: Vec<usize> = floats(&vectors["shape"])
        .iter()
        .map(|&length| length as usize)
        .collect();
    Array4::from_shape_vec((shape[0], shape[1], shape[2], shape[3]), pixels).unwrap()
}

#[test]
fn the_model_gives_the_scores_that_it_promises() {
    let vectors: Value = serde_json::from_slice(&std::fs::read(path("json")).unwrap()).unwrap();
    let model = std::fs::read(path("onnx")).unwrap();
    let found: String = Sha256::digest(&model)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        found,
        vectors["model"]["sha256"].as_str().unwrap(),
        "the vectors are of another model"
    );

    let mut session = Session::builder()
        .unwrap()
        .commit_from_file(path("onnx"))
        .unwrap();
    let triplets = triplets(&vectors);
    let input = vectors["input"].as_str().unwrap();
    let outputs = session
        .run(inputs! { input => TensorRef::from_array_view(&triplets).unwrap() })
        .unwrap();
    let (_, scores) = outputs[vectors["output"].as_str().unwrap()]
        .try_extract_tensor::<f32>()
        .unwrap();

    let expected = floats(&vectors["scores"]);
    let tolerance = vectors["tolerance"].as_f64().unwrap() as f32;
    assert_eq!(scores.len(), expected.len());
    for (score, promised) in scores.iter().zip(&expected) {
        assert!(
            (score - promised).abs() <= tolerance,
            "{score} is not {promised}"
        );
    }
}
