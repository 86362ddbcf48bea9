//! `targets::sdp_offers` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::sdp_offers(data));
