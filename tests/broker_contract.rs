//! What every broker promises, checked against the embedded log and against JetStream on a real nats-server.

#![allow(unreachable_pub, reason = "a test binary exports nothing")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

#[path = "broker_contract/claims.rs"]
mod claims;
#[path = "broker_contract/jetstream.rs"]
mod jetstream;
#[path = "broker_contract/jetstream_only.rs"]
mod jetstream_only;
#[path = "support/nats.rs"]
mod nats_server;
#[path = "broker_contract/state.rs"]
mod state;
#[path = "broker_contract/under_test.rs"]
mod under_test;

macro_rules! contract {
    ($($area:ident: { $($claim:ident,)+ })+) => {
        mod memory { $($(
            #[tokio::test]
            async fn $claim() {
                crate::$area::$claim::<crate::under_test::Embedded>().await;
            }
        )+)+ }
        mod nats { $($(
            #[tokio::test]
            async fn $claim() {
                crate::$area::$claim::<crate::jetstream::JetStream>().await;
            }
        )+)+ }
    };
}

contract! {
    claims: {
        publishes_are_acked_in_order,
        what_is_read_is_what_was_published,
        every_name_survives_the_log,
        an_id_is_stored_once,
        an_id_within_one_batch_is_stored_once,
        an_id_may_return_after_the_window,
        a_batch_published_again_is_completed_and_not_doubled,
        concurrent_batches_keep_their_own_order,
        an_empty_batch_is_no_work,
        a_tail_sees_what_is_published_after_it,
        two_tails_see_the_same,
        a_range_read_is_bounded_by_count,
        a_range_read_is_bounded_by_bytes_and_makes_progress,
        consecutive_reads_join_without_a_seam,
        reads_from_a_place_back_join_without_a_seam,
        a_read_back_is_bounded_by_bytes_and_makes_progress,
        a_read_back_ends_with_the_first_that_is_kept,
        a_read_beyond_the_end_is_empty,
        a_read_before_the_first_skips_to_it,
        bytes_beyond_the_limit_drop_the_oldest,
        envelopes_beyond_their_age_are_dropped,
        an_empty_shard_begins_after_its_end,
        the_last_envelope_of_each_channel_is_found,
        the_last_envelopes_of_more_channels_than_may_be_asked_for_are_refused,
        the_newest_envelope_of_a_collector_is_found_with_its_id,
        the_newest_envelope_ages_with_the_log,
        shards_are_separate,
        a_shard_that_does_not_exist_is_refused,
        a_recreated_shard_has_another_epoch,
        the_connection_is_watched,
    }
    state: {
        a_value_is_read_back_with_its_revision,
        revisions_grow_over_all_keys,
        only_one_of_two_writers_creates_a_key,
        a_stale_revision_is_a_conflict,
        a_deleted_key_is_absent_and_can_be_created_again,
        a_stale_delete_is_a_conflict,
        a_value_expires,
        an_expired_key_can_be_created_again,
        a_renewed_value_does_not_expire,
        keys_may_hold_any_text,
        a_watch_reports_what_is_there_then_what_changes,
        a_watch_reports_expiry,
        a_watch_knows_its_prefix,
    }
}
