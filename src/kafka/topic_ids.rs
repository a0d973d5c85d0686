//! The ids of topics. A topic that is deleted and made again has another id, and offsets that were committed of the old one mean
//! nothing in it: a reader that goes on at them skips records in silence.

#![expect(unsafe_code, reason = "rdkafka has no safe call for it")]

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, c_char},
    ptr,
    time::Duration,
};

use rdkafka::bindings as sys;

use super::connection::KafkaError;

/// An object of the client library, destroyed once.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the object was made by the library for us, and is destroyed here alone.
            unsafe { (self.1)(self.0) };
        }
    }
}

/// The id of each of these topics that is there, as the client `native` sees it.
///
/// # Errors
/// When the brokers do not answer, or are too old to say (before Kafka 2.8).
pub(super) fn topic_ids(
    native: *mut sys::rd_kafka_t,
    topics: &[String],
    timeout: Duration,
) -> Result<BTreeMap<String, String>, KafkaError> {
    let failed = |reason: &str| KafkaError::Fatal(format!("the ids of topics are not known: {reason}"));
    let names: Result<Vec<CString>, _> = topics.iter().map(|topic| CString::new(topic.as_str())).collect();
    let names = names.map_err(|_| failed("a name holds a NUL character"))?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);

    // SAFETY: `native` is a live client, which its caller borrows. Every object is made by the library and destroyed by its own
    // function, in the opposite order; names, descriptions and ids belong to the event, and are copied before it is destroyed.
    unsafe {
        let options = Owned(
            sys::rd_kafka_AdminOptions_new(native, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            sys::rd_kafka_AdminOptions_destroy,
        );
        sys::rd_kafka_AdminOptions_set_request_timeout(options.0, milliseconds, ptr::null_mut(), 0);
        let collection = Owned(
            sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()),
            sys::rd_kafka_TopicCollection_destroy,
        );
        let queue = Owned(sys::rd_kafka_queue_new(native), sys::rd_kafka_queue_destroy);
        sys::rd_kafka_DescribeTopics(native, collection.0, options.0, queue.0);
        let event = Owned(sys::rd_kafka_queue_poll(queue.0, milliseconds), sys::rd_kafka_event_destroy);
        if event.0.is_null() {
            return Err(failed("no broker answers"));
        }
        if sys::rd_kafka_event_error(event.0) != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            let words = sys::rd_kafka_event_error_string(event.0);
            return Err(failed(&text(words).unwrap_or_default()));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(failed("the client library gives another answer"));
        }
        let mut count = 0;
        let found = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let mut ids = BTreeMap::new();
        for index in 0..count {
            let topic = *found.add(index);
            let error = sys::rd_kafka_TopicDescription_error(topic);
            let is_there = error.is_null()
                || sys::rd_kafka_error_code(error) == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            let id = sys::rd_kafka_TopicDescription_topic_id(topic);
            if !is_there || id.is_null() {
                continue;
            }
            let name = text(sys::rd_kafka_TopicDescription_name(topic));
            ids.extend(name.zip(text(sys::rd_kafka_Uuid_base64str(id))));
        }
        Ok(ids)
    }
}

/// A text of the library, copied.
///
/// # Safety
/// The pointer is null or leads to a text that ends with a zero.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: as the caller promises.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}
