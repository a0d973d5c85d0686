#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ofa_stream::fuzzing::tokenizer(bytes));
